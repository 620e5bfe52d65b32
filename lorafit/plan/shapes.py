"""The shape of a model, from its `config.json` or from a name people type."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from lorafit.errors import ModelError
from lorafit.plan import catalogue
from lorafit.plan.config_keys import ConfigKeys
from lorafit.plan.families import FAMILIES, TEXT_TYPES
from lorafit.plan.family import Family
from lorafit.plan.layers import Layer, Linear, ModelShape
from lorafit.plan.targets import taken_for_stacks
from lorafit.recipe.suggest import nearest

__all__ = ["Linear", "ModelShape", "NamedShape", "shape_by_name", "shape_from_config"]

# reads the shape of a family that is not in the table off transformers' own class
OfClass = Callable[[Mapping[str, object], str], ModelShape]


class NamedShape(NamedTuple):
    """What a name stands for: the shape, the hub id it was taken as, others it could have meant, its config.json."""

    shape: ModelShape
    taken_as: str
    alternatives: list[str]
    config: Mapping[str, object]
    stored: str = ""  # how the weights that are published under the name are quantised, where the catalogue says so


def shape_by_name(name: str) -> NamedShape:
    """Find a model of the catalogue by hub id, usual name (`llama-3-8b`) or bare size (`70b`).

    Raises:
        ModelError: no entry has this name (it tells the nearest), or it fits several.
    """
    match = catalogue.find(name, lambda entry: _parameters_of(entry.hub_id))
    shape = shape_from_config(match.entry.config, match.entry.hub_id)
    if match.entry.unconfirmed:
        doubt = f"the sizes of {match.entry.hub_id} in the catalogue come from one source only"
        shape = replace(shape, notes=(*shape.notes, doubt))
    return NamedShape(shape, match.entry.hub_id, list(match.alternatives), match.entry.config, match.entry.stored)


@cache
def _parameters_of(hub_id: str) -> int:
    """Count the values of a model of the catalogue once: a size is held against every one."""
    config = next(entry.config for entry in catalogue.entries() if entry.hub_id == hub_id)
    return shape_from_config(config, hub_id).total_parameters


def shape_from_config(config: Mapping[str, object], name: str, of_class: OfClass | None = None) -> ModelShape:
    """Read the sizes of a model from its `config.json`; `name` is what messages call it.

    Raises:
        ModelError: the model type is none of `FAMILIES` and there is no `of_class`, or keys are missing or no numbers.
    """
    text = config.get("text_config")
    model_type = text_type(config)
    if of_class is not None and isinstance(model_type, str) and model_type not in FAMILIES:
        return of_class(config, name)
    if not isinstance(text, Mapping):
        return _shape(config, name)
    outer = {
        "model_type": model_type,
        "tie_word_embeddings": config.get("tie_word_embeddings"),
    }
    shape = _shape(outer | dict(text), name)
    return replace(shape, notes=(*shape.notes, "only the text part is counted, no vision or audio tower"))


def text_type(config: Mapping[str, object]) -> object:
    """Give the model type of what reads text, as config.json has it."""
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        return config.get("model_type")
    return text.get("model_type") or TEXT_TYPES.get(str(config.get("model_type")))


def _shape(config: Mapping[str, object], name: str) -> ModelShape:
    model_type = str(config.get("model_type"))
    family = FAMILIES.get(model_type)
    if family is None:
        raise _unknown_type(config.get("model_type"), name)
    keys = ConfigKeys(config, name)
    layers = family.layers(keys)
    windows = family.sliding.widths(keys, len(layers)) if family.sliding else ()
    shape = ModelShape(
        name=name,
        model_type=model_type,
        hidden_size=keys.integer("hidden_size", "n_embd"),
        vocab_size=keys.integer("vocab_size"),
        tied=keys.flag("tie_word_embeddings", family.tied),
        layers=layers,
        prefix=family.prefix,
        windows=windows,
        outer_parameters=family.outer_parameters(keys),
        position_parameters=family.position_parameters(keys),
        head_biases=family.head_biases(keys),
        capped_logits=family.capped_logits,
        scaled_embeddings=family.scaled_embeddings,
        scaled_logits=family.scaled_logits,
        dropped_embeddings=family.drops(keys, family.dropout.embedding),
        narrow_loss_before=family.narrow_loss_before,
        mask_bytes=keys.integer(family.positions) ** 2 if family.mask and family.positions else 0,
        position_tables=0 if family.positions else min(family.position_tables, len(set(windows)) or 1),
        wide_positions=family.wide_positions,
    )
    keys.done()
    return replace(shape, notes=_notes(family, model_type, shape.layers, shape.expert_parameters))


def _notes(family: Family, model_type: str, layers: tuple[Layer, ...], expert_parameters: int) -> tuple[str, ...]:
    notes = []
    if expert_parameters:
        notes.append(
            f"{expert_parameters:,} values are experts in stacked matrices, which are neither adapted nor quantised"
        )
    if any(taken_for_stacks(linear.name, model_type) for layer in set(layers) for linear in layer.linears):
        notes.append("MLPs of dense layers and shared experts get no adapter: PEFT takes their names for the stacks")
    if any(layer.attention.kind == "gated_delta" for layer in layers):
        notes.append("layers of linear attention are estimated as if they were softmax attention of the same widths")
    if family.remote_code:
        notes.append("transformers has no class for this model: lorafit can estimate it, not load it")
    return tuple(notes)


def _unknown_type(model_type: object, name: str) -> ModelError:
    if not isinstance(model_type, str):
        fix = "take the config.json that came with the weights"
        has = "the key is missing" if model_type is None else f"expected a name, found {repr(model_type)[:60]}"
        return ModelError(f"model_type: {has}", where=name, fix=fix, code="E4-MODEL-TYPE")
    near = nearest(model_type, FAMILIES)
    ask = f"did you mean {near}? " if near else ""
    return ModelError(
        f"model_type: {model_type!r} is no family that lorafit knows the shape of",
        where=name,
        fix=f"{ask}--exact reads it off transformers' own class, if any; known: {', '.join(sorted(FAMILIES))}",
        code="E4-MODEL-TYPE",
    )
