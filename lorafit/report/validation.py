"""What can be said of a recipe without loading weights: what is wrong, and every setting that will be used."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorafit.data.rows import check_rows, local_files, sources
from lorafit.errors import DataError, Fault, LorafitError, MachineError, ModelError
from lorafit.model.find import find_local
from lorafit.model.init_from import start_faults
from lorafit.model.quiet import without_torch
from lorafit.plan.base_config import beyond_positions, refuse_stored_as, refuse_stored_quantised
from lorafit.plan.find_shape import find_shape, read_config
from lorafit.plan.shapes import NamedShape, text_type
from lorafit.plan.targets import leaf_counts, match_targets
from lorafit.plan.trackers import missing_trackers
from lorafit.recipe.adapters import Full
from lorafit.recipe.load import LoadedRecipe
from lorafit.recipe.resolved import canonical_json
from lorafit.recipe.schema import Recipe

Look = Callable[[Recipe, list[str]], None]


@dataclass
class Validation:
    """A recipe that holds, its settings, and what could not be looked at."""

    loaded: LoadedRecipe
    notes: list[str] = field(default_factory=list)

    def as_text(self) -> str:
        """Show every setting, defaults filled in, and the notes."""
        settings = "\n".join(_lines(json.loads(canonical_json(self.loaded.recipe))))
        return "\n".join([settings, *self.notes, f"{self.loaded.path} is valid"])

    def as_json(self) -> dict[str, object]:
        """Give the same to a program."""
        return {"valid": True, "recipe": json.loads(canonical_json(self.loaded.recipe)), "notes": self.notes}


def check(loaded: LoadedRecipe) -> Validation:
    """Look at the model's sizes, the targets, the template and every local row.

    Raises the error with the lowest exit code, with the faults of all kinds.
    """
    result = Validation(loaded)
    _look((_check_model, _check_adapter, _check_template, _check_trackers, _check_data), loaded.recipe, result.notes)
    return result


def check_settings(recipe: Recipe) -> None:
    """Look at what a run needs beside model and rows, before either is touched: all faults at once, as `check`."""
    _look((_check_adapter, _check_template, _check_trackers), recipe, [])


def _look(looks: Sequence[Look], recipe: Recipe, notes: list[str]) -> None:
    """Take every look, then raise the error with the lowest exit code, with the faults of all kinds."""
    wrong: list[LorafitError] = []
    for look in looks:
        try:
            look(recipe, notes)
        except LorafitError as error:
            wrong.append(error)
    if wrong:
        first = min(wrong, key=lambda error: error.exit_code)
        raise type(first)([fault for error in wrong for fault in error.faults])


def _check_model(recipe: Recipe, notes: list[str]) -> None:
    found = _shape(recipe, notes)
    if found is None:
        return
    refuse_stored_quantised(found.config, "model.path")
    if found.stored and found.taken_as.lower() == recipe.model.path.lower():
        refuse_stored_as(found.stored, "model.path")
    if beyond := beyond_positions(recipe.data.max_length, found.config):
        notes.append(f"warning: {beyond}")
    shape = found.shape
    if isinstance(recipe.adapter, Full):
        return
    targets = match_targets(
        recipe.adapter.target_modules, [linear.name for linear in shape.linears()], shape.model_type
    )
    counts = ", ".join(f"{leaf} x{count}" for leaf, count in leaf_counts(targets).items())
    notes.append(f"model: {found.taken_as}, {shape.total_parameters:,} parameters; adapter on {counts}")


def _shape(recipe: Recipe, notes: list[str]) -> NamedShape | None:
    """Find the model's sizes on this machine, else in the catalogue."""
    here = find_local(recipe.model.path)
    try:
        return find_shape(recipe.model.path, recipe.model.revision)
    except ModelError as error:
        if here and not (error.faults[0].code == "E4-MODEL-TYPE" and _has_class(here)):
            raise
        unseen = f"{recipe.model.path} is not on this machine and not in the catalogue"
        notes.append(f"model: {error.faults[0].what if here else unseen}: its layers were not checked")
        return None


def _has_class(folder: Path) -> bool:
    """Tell whether transformers knows the model type: then a run asks its class for the layers."""
    without_torch()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # only here: it takes seconds to load

    return text_type(read_config(folder / "config.json")) in CONFIG_MAPPING_NAMES


def _check_template(recipe: Recipe, notes: list[str]) -> None:
    template = recipe.data.chat_template
    if template is not None and not Path(template).is_file():
        raise ModelError(
            f"no file at {template!r}", where="data.chat_template", fix="give a Jinja file", code="E4-TEMPLATE"
        )


def _check_adapter(recipe: Recipe, notes: list[str]) -> None:
    if faults := start_faults(recipe):
        raise ModelError(faults)


def _check_trackers(recipe: Recipe, notes: list[str]) -> None:
    missing = missing_trackers(recipe.output.trackers)
    if missing:
        raise MachineError(missing)


def _check_data(recipe: Recipe, notes: list[str]) -> None:
    faults: list[Fault] = check_rows(recipe)
    if faults:
        raise DataError(faults)
    remote = [str(source.path) for source in sources(recipe) if local_files(source) is None]
    if remote:
        notes.append(f"data: not looked at, since not on this machine: {', '.join(remote)}")


def _lines(block: dict[str, object], indent: str = "") -> list[str]:
    """Write a resolved recipe as YAML-like lines."""
    lines = []
    for key, value in block.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(value)}")
    return lines
