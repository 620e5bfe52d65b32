"""Find a base model: built in, in a folder, or on the hub; and refuse one that asks to run code."""

import json
from collections.abc import Mapping
from pathlib import Path

from lorafit import assets
from lorafit.errors import ModelError, SafetyRefusal

WEIGHT_PATTERNS = ["*.safetensors", "*.safetensors.index.json"]
KEY = "model.path"  # of a recipe
TEXT_PATTERNS = ["*.json", "*.jinja", "*.model", "*.txt", "tokenizer*"]


def find_model(path: str, revision: str | None = None, *, weights: bool = True, where: str = KEY) -> Path:
    """Give the folder of a model; a hub id is downloaded to the hub's cache. ModelError when there is none.

    Without `weights`, only what the tokenizer needs is downloaded. `where` is what the user named the model by.
    """
    local = find_local(path, where)
    return local if local is not None else _from_hub(path, revision, weights=weights, where=where)


def find_local(path: str, where: str = KEY) -> Path | None:
    """Give the folder of a built-in or local model, None where only the hub can have it. ModelError for neither."""
    local = assets.existing(path)
    if local is not None and local.is_dir():
        return local
    if local is not None or path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ModelError(
            f"no model folder at {path[:200]!r}",
            where=where,
            fix="give a folder that holds config.json, a hub id such as org/name, or builtin:tiny",
            code="E4-MODEL-PATH",
        )
    return None


def _from_hub(repo_id: str, revision: str | None, *, weights: bool, where: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils.tqdm import enable_progress_bars

    enable_progress_bars()  # gigabytes may be coming
    patterns = [*(WEIGHT_PATTERNS if weights else []), *TEXT_PATTERNS]
    ignored = ["*/*", *([] if weights else WEIGHT_PATTERNS)]
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
    except GatedRepoError:
        reason, fix = "its licence must be accepted first", "accept it on its page, then log in"
    except RevisionNotFoundError:
        reason, fix = f"it has no revision {revision!r}", "check model.revision"
    except RepositoryNotFoundError:
        reason, fix = "the hub does not know it, or you may not see it", "check the name"
    except HFValidationError:
        reason, fix = "this is no valid hub id", "ids look like org/name"
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        reason = "it is no local folder, it is not in the hub's cache, and the hub cannot be reached"
        fix = "download it on a machine that is online, then give its folder"
    raise ModelError(f"cannot get model {repo_id!r}: {reason}", where=where, fix=fix, code="E4-MODEL-ABSENT")


def refuse_code(folder: Path, config: Mapping[str, object]) -> None:
    """Raise SafetyRefusal when loading would run code that came with the model."""
    from transformers import CONFIG_MAPPING

    if config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
        raise SafetyRefusal(
            f"config.json asks to run code that comes with the model (auto_map, model_type "
            f"{config.get('model_type')!r}); lorafit never does",
            where=str(folder / "config.json"),
            fix="use a model that transformers has built in",
            code="E12-REMOTE-CODE",
        )
    _refuse_kernels(folder, config)


def check_weights(folder: Path) -> None:
    """Raise ModelError when the folder has no whole set of safetensors, SafetyRefusal for what is unsafe to read."""
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt"))
        if pickled:
            raise SafetyRefusal(
                f"the weights are pickles ({pickled[0]}), which can run code when read",
                where=str(folder),
                fix="convert them to safetensors, or use a revision that has them",
                code="E12-PICKLE",
            )
        raise ModelError(
            "the folder holds no *.safetensors weights",
            where=str(folder),
            fix="download the model's *.safetensors too, or convert its weights",
            code="E4-WEIGHTS",
        )
    _refuse_outside_shards(folder)


def _refuse_kernels(folder: Path, block: Mapping[str, object]) -> None:
    """A config may name the kernels to compute with, and a kernel may be code on the hub; ours are named by us."""
    for key, value in block.items():
        if isinstance(value, Mapping):
            _refuse_kernels(folder, value)
        elif key.lstrip("_").startswith(("attn_implementation", "experts_implementation")) and "/" in str(value):
            raise SafetyRefusal(
                f"config.json asks for the kernel {value!r}, which is code from elsewhere",
                where=str(folder / "config.json"),
                fix=f"take {key!r} out of config.json",
                code="E12-KERNEL",
            )


def _refuse_outside_shards(folder: Path) -> None:
    """An index may only name files beside it, and every file it names must be there."""
    for index in folder.glob("*.safetensors.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise ModelError(
                "the index of the weights cannot be read", where=str(index), fix="get that file again", code="E4-INDEX"
            ) from None
        outside = [s for s in shards if not isinstance(s, str) or Path(s).name != s]
        if outside:
            raise SafetyRefusal(
                f"the index names {outside[0]!r}, outside its folder",
                where=str(index),
                fix="get the model again: an index names files beside it",
                code="E12-PATH",
            )
        missing = sorted(s for s in shards if not (folder / s).is_file())
        if missing:
            raise ModelError(
                f"shard {missing[0]} is missing",
                where=str(index),
                fix="get that file: the download is not whole",
                code="E4-SHARD",
            )
