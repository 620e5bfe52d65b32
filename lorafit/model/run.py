"""Load a finished run to use it: the base as it was trained on, its adapter, its tokenizer and template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorafit.data.classes import padding_id
from lorafit.errors import Fault, LorafitError, ModelError, StorageError
from lorafit.model.adapt import load_adapter
from lorafit.model.classify import Head, labels_in
from lorafit.model.fast_linear import take_fast_linears
from lorafit.model.find import KEY, find_model
from lorafit.model.identity import identify
from lorafit.model.load import load_base, pick_device
from lorafit.model.tokenizer import load_tokenizer
from lorafit.recipe.adapters import Full
from lorafit.recipe.quantization import Unquantized
from lorafit.recipe.resolved import recipe_from_resolved
from lorafit.recipe.schema import ModelSpec, Recipe
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.manifest import ACCOUNT, day_begun, read_manifest
from lorafit.rundir.state import read_standing
from lorafit.rundir.store import verify_folder


@dataclass(frozen=True)
class Loaded:
    """A model that answers. `recipe` is None when it is not a run's."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    base_folder: Path
    recipe: Recipe | None
    labels: Sequence[str] = ()  # the classes it tells apart; none for a language model


def result_folder(run: RunFolder, recipe: Recipe) -> Path:
    """Give the folder that holds what the run made, whole and unchanged. ModelError when it has not finished."""
    folder = run.model if isinstance(recipe.adapter, Full) else run.adapter
    if not folder.is_dir():
        standing = read_standing(run)
        what = f"holds no finished adapter: the run {standing.what}"
        raise ModelError(what, where=str(run.root), fix=standing.fix, code="E4-UNFINISHED")
    verify_folder(folder)
    return folder


def base_folder(run: RunFolder, recipe: Recipe) -> Path:
    """Find the base: where training found it (a relative path may mean another place now), else by its name."""
    found = Path(str(_where_trained(run).get("folder", "")))
    there = found.is_absolute() and found.is_dir()
    if there:
        return found
    return find_model(recipe.model.path, recipe.model.revision, where=f"{run.resolved_recipe}: {KEY}")


def _check_same_base(run: RunFolder, folder: Path) -> None:
    """An adapter on another base is noise that looks like an answer."""
    if not run.manifest.exists():
        return
    trained_on, here = read_manifest(run)["model"]["files"], identify(folder)["files"]
    assert isinstance(here, dict)
    other = sorted(name for name in {*trained_on, *here} if trained_on.get(name) != here.get(name))
    if other:
        raise ModelError(
            f"the base has changed since the run: {', '.join(other[:3])}",
            where=str(folder),
            fix="restore it, or give the revision that was trained on",
            code="E4-OTHER-BASE",
        )


def _where_trained(run: RunFolder) -> dict[str, object]:
    """Give what the run notes of its machine; nothing before it began to train."""
    device: dict[str, object] = read_manifest(run)["device"] if run.manifest.exists() else {}
    return device


@dataclass(frozen=True)
class TrainedOn:
    """The files that a run was trained on, with their hashes, and the rows that it held out of them."""

    files: Mapping[str, str]
    held_out: str  # a hash of them; "" where there are none, or an older lorafit did not note it
    day: date | None  # when the run began, which its rows may bear


def trained_on(run: RunFolder) -> TrainedOn | None:
    """Give what the run was trained on; None before it began."""
    if not run.manifest.exists():
        return None
    manifest = read_manifest(run)
    data = manifest["data"]
    validation = data.get(ACCOUNT, {}).get("validation") or {}
    return TrainedOn(data["files"], validation.get("content", ""), day_begun(manifest))


def file_hashes(report: Mapping[str, Any]) -> dict[str, str]:
    """Give the hash of each file of a data report, by its path."""
    return {file["path"]: file["sha256"] for source in report["sources"] for file in source["files"]}


def read_recipe(run: RunFolder) -> Recipe:
    """Read the recipe that a run was made by, with the dtype it trained in.

    Raises ModelError when it is no run, StorageError when the recipe in it is not what lorafit wrote.
    """
    if not run.is_run():
        raise ModelError(f"{run.root} is no run folder", fix="give the folder that `train` wrote", code="E4-NO-RUN")
    recipe = _whole_recipe(run)
    # `auto` is another on another machine; full fine-tuning trains, and keeps, float32
    trained = "float32" if isinstance(recipe.adapter, Full) else _where_trained(run).get("dtype", recipe.model.dtype)
    resolved = {"dtype": trained}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=resolved)})


def _whole_recipe(run: RunFolder) -> Recipe:
    try:
        return recipe_from_resolved(run.resolved_recipe.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError([_damage(str(run.resolved_recipe), str(error))]) from error
    except LorafitError as error:  # of a recipe: but this one no user wrote
        raise StorageError([_damage(str(run.root / fault.where), fault.what) for fault in error.faults]) from error


def _damage(where: str, what: str) -> Fault:
    fix = "bring it back from a copy, or train anew with --fresh"
    return Fault(f"is damaged, or of another version of lorafit: {what}", where, fix, "E7-DAMAGED")


def load_run(root: Path) -> Loaded:
    """Load a run's model, in evaluation mode. Raises ModelError when it is unfinished or damaged."""
    run = RunFolder(root)
    recipe = read_recipe(run)
    result = result_folder(run, recipe)
    device = pick_device()
    tokenizer = load_tokenizer(result)
    labels = labels_in(result)
    if isinstance(recipe.adapter, Full):
        base = load_base(recipe.model, recipe.quantization, device, result, _stored_head(labels))
        return Loaded(base.model, tokenizer, device, result, recipe, labels)
    folder = base_folder(run, recipe)
    _check_same_base(run, folder)
    head = new_head(labels, tokenizer, recipe.seed)
    base = load_base(recipe.model, recipe.quantization, device, folder, head)
    model = load_adapter(base.model, result)
    take_fast_linears(model)  # without a gradient that is DoRA's alone: PEFT would build its weights for every pass
    return Loaded(model, tokenizer, device, folder, recipe, labels)


def new_head(labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, seed: int) -> Head | None:
    """Give the head that a run begins with; None where there are no classes."""
    return Head(labels, padding_id(tokenizer), seed) if labels else None


def _stored_head(labels: Sequence[str]) -> Head | None:
    return Head(labels) if labels else None


def load_model(path: str) -> Loaded:
    """Load a model that is no run: a folder, a hub id, or a built-in."""
    folder = find_model(path)
    device = pick_device()
    labels = labels_in(folder)
    base = load_base(ModelSpec(path=path), Unquantized(), device, folder, _stored_head(labels))
    return Loaded(base.model, load_tokenizer(folder), device, folder, None, labels)
