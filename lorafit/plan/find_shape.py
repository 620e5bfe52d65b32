"""Where a model's shape comes from: a built-in, a folder, the hub's cache on this machine, or the catalogue."""

import json
import os
import stat
from pathlib import Path
from typing import cast

from lorafit import assets
from lorafit.errors import ModelError, first_line
from lorafit.plan.shapes import NamedShape, OfClass, shape_by_name, shape_from_config

LARGEST_CONFIG_BYTES = 256 * 2**20  # an index of weights has some ten MiB where there are many experts
HUB_SECONDS = 5  # to wait for an answer


def find_shape(
    text: str,
    revision: str | None = None,
    *,
    online: bool = False,
    where: str = "model.path",
    of_class: OfClass | None = None,
) -> NamedShape:
    """Find the shape of `builtin:tiny`, a folder, a `config.json`, a hub id, a usual name or a size.

    Nothing is downloaded, but `online` the config.json of a hub id that is not known here. `where` is what the user
    named the model by; `of_class` reads the shape of an unknown family. Raises ModelError when it is none of these, or
    its config.json cannot be read.
    """
    path = assets.existing(text)
    if path is not None:
        return _from_file(path / "config.json" if path.is_dir() else path, text, of_class)
    if text.startswith((".", "/", "~")):
        raise ModelError(
            f"no model folder at {text[:200]!r}",
            where=where,
            fix="give a folder that holds config.json, a hub id, or a size such as 8b",
            code="E4-MODEL-PATH",
        )
    cached = _cached_config(text, revision)
    if cached:
        return _from_file(cached, text, of_class)
    try:
        return shape_by_name(text)
    except ModelError as error:
        if not online or text.count("/") != 1:
            raise
        fetched = _fetched_config(text, revision)
        if isinstance(fetched, str):
            raise _not_given(error, fetched) from None
    return _from_file(fetched, text, of_class)


def _fetched_config(hub_id: str, revision: str | None) -> Path | str:
    """Download config.json into the hub's cache; else say why the hub cannot be reached, or does not give it."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    import huggingface_hub  # only here: it takes a while to load

    try:
        return Path(huggingface_hub.hf_hub_download(hub_id, "config.json", revision=revision, etag_timeout=HUB_SECONDS))
    except Exception as error:  # noqa: BLE001  # the hub's client and the network each fail in their own way
        return first_line(error)


def _not_given(error: ModelError, reason: str) -> ModelError:
    """The catalogue's error, and what the hub said."""
    fault = error.faults[0]
    return ModelError(
        f"{fault.what}, and the hub does not give its config.json ({reason})",
        fix=f"{fault.fix}; where a licence must be accepted, do so and log in",
        code=fault.code,
    )


def _from_file(path: Path, name: str, of_class: OfClass | None) -> NamedShape:
    config = read_config(path)
    return NamedShape(shape_from_config(config, str(path), of_class), name, [], config)


def read_config(path: Path) -> dict[str, object]:
    """Read a model's config.json. ModelError when it is missing or is no JSON object."""
    try:
        config = json.loads(_text_of(path))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} holds no config.json", fix="give a model folder", code="E4-CONFIG") from None
    except OSError as error:
        fix = "mend its rights, or give another folder"
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path), fix=fix, code="E4-CONFIG") from None
    except (ValueError, RecursionError) as error:
        fix = "take the config.json that came with the weights"
        raise ModelError(f"cannot be read: {error}", where=str(path), fix=fix, code="E4-CONFIG") from None
    if not isinstance(config, dict):
        raise ModelError(
            "is no JSON object",
            where=str(path),
            fix="take the config.json that came with the weights",
            code="E4-CONFIG",
        )
    return cast("dict[str, object]", config)


def _text_of(path: Path) -> str:
    """Read a file that may be any: a pipe would wait, a device would have no end. ValueError for what is no config."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")
    with path.open("rb") as file:
        content = file.read(LARGEST_CONFIG_BYTES + 1)
    if len(content) > LARGEST_CONFIG_BYTES:
        raise ValueError(f"it has more than {LARGEST_CONFIG_BYTES // 2**20} MiB")
    return content.decode()


def _cached_config(hub_id: str, revision: str | None) -> Path | None:
    """Find config.json of a hub id that was downloaded before, by the layout of the hub's cache."""
    if hub_id.count("/") != 1:
        return None
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    folder = hub / f"models--{hub_id.replace('/', '--')}"
    wanted = revision or "main"
    named = folder / "refs" / wanted
    commit = named.read_text(encoding="utf-8").strip() if named.is_file() else wanted
    config = folder / "snapshots" / commit / "config.json"
    return config if config.is_file() else None
