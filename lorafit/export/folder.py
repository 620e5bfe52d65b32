"""Where a merged model may be written, and the files in it that are not weights."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lorafit.errors import RecipeError, SafetyRefusal
from lorafit.plan.find_shape import read_config
from lorafit.rundir.store import Store, is_leftover

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG = "config.json"
GENERATION = "generation_config.json"
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
MARK = "MERGING"  # in a folder that is still being written
DTYPE_KEYS = ("dtype", "torch_dtype")  # transformers 5 writes the first, older readers know the second


def check_out(out: Path, *, force: bool, run: Path, sources: Sequence[Path]) -> Path:
    """Resolve the folder to write, or refuse it.

    RecipeError: it is there already and `force` is not given; no disk failed, the command line asks for what it
    does not permit. SafetyRefusal: writing there would replace the run or change a source (the base, the
    adapter), or with `force` replace something that is no model.
    """
    out = out.expanduser().resolve()
    for folder in (path.resolve() for path in (run, *sources)):
        if folder.is_relative_to(out) or (folder != run.resolve() and out.is_relative_to(folder)):
            raise SafetyRefusal(
                f"writing there would change {folder}",
                where=str(out),
                fix="choose another --out",
                code="E12-OUT",
            )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return out
    if not force:
        raise RecipeError(
            "is already there",
            where=str(out),
            fix="choose another --out, or replace it with --force",
            code="E2-OUT",
        )
    if not (out / CONFIG).is_file():
        raise SafetyRefusal(
            "--force replaces a model, and this holds none (no config.json)",
            where=str(out),
            fix="choose another --out, or remove it yourself",
            code="E12-OUT",
        )
    return out


@contextmanager
def being_written(folder: Path) -> Iterator[None]:
    """Mark a folder for as long as this process writes into it: a kill leaves the mark, but not its lock."""
    with (folder / MARK).open("wb") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        yield
    (folder / MARK).unlink()


def clear_leftovers(parent: Path, store: Store) -> None:
    """Remove what killed merges left half written in a folder; what a living one writes is locked, and stays."""
    for mark in parent.glob(f".*/{MARK}"):
        if is_leftover(mark.parent) and _is_abandoned(mark):
            store.remove(mark.parent)


def _is_abandoned(mark: Path) -> bool:
    try:
        with mark.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # locked, gone, or on a file system that cannot tell
        return False


def write_companions(
    folder: Path,
    base: Path,
    tokenizer: "PreTrainedTokenizerBase",
    dtype: str,
    stop_ids: Sequence[int],
    settings: Mapping[str, object],
) -> None:
    """Write config (`settings` over the base's), generation config, tokenizer with its template, the base's licence."""
    config = read_config(base / CONFIG)
    generation = read_config(base / GENERATION) if (base / GENERATION).is_file() else {}
    _write_json(folder / CONFIG, merged_config(config, dtype) | dict(settings))
    if not settings:  # a classifier generates nothing
        _write_json(folder / GENERATION, merged_generation(config, generation, stop_ids))
    tokenizer.save_pretrained(folder)
    for licence in (path for pattern in LICENCES for path in base.glob(pattern) if path.is_file()):
        shutil.copyfile(licence, folder / licence.name)


def merged_generation(
    config: Mapping[str, object], generation: Mapping[str, object], stop_ids: Sequence[int]
) -> dict[str, object]:
    """Give the base's generation config with every stop token: its own, the config's, and those of `stop_ids`.

    Where they disagree, a model that was trained to end its turn with one of them would run on past it.
    """
    named = [config.get("eos_token_id"), generation.get("eos_token_id"), *stop_ids]
    flat = [token for entry in named for token in (entry if isinstance(entry, list) else [entry])]
    stops = {token for token in flat if isinstance(token, int)}
    starts = {key: config[key] for key in ("bos_token_id", "pad_token_id") if config.get(key) is not None}
    return starts | dict(generation) | ({"eos_token_id": sorted(stops)} if stops else {})


def merged_config(config: Mapping[str, object], dtype: str) -> dict[str, object]:
    """Give the base's config for unquantised weights of another dtype."""
    merged = _with_dtype({key: value for key, value in config.items() if key != "quantization_config"}, dtype)
    return merged if any(key in merged for key in DTYPE_KEYS) else merged | {DTYPE_KEYS[0]: dtype}


def _with_dtype(config: Mapping[str, object], dtype: str) -> dict[str, object]:
    """Change the dtype wherever one is named: a multimodal config holds one for each of its parts."""
    named = {key: _with_dtype(value, dtype) if isinstance(value, dict) else value for key, value in config.items()}
    return {key: dtype if key in DTYPE_KEYS else value for key, value in named.items()}


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
