"""How many rows a forward pass takes, and whether activations are recomputed: from the memory model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch

from lorafit.errors import ModelError
from lorafit.plan.memory import estimate, largest_micro_batch
from lorafit.plan.question import BaseDtype, MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.recipe.schema import Recipe

USABLE_SHARE = 0.85  # of what is free: the estimate is honest to about a tenth


@dataclass(frozen=True)
class Sizes:
    """The two settings that trade memory for time, and the peak that is expected of them."""

    micro_batch_size: int
    gradient_checkpointing: bool
    estimated_peak_bytes: int | None  # None for an architecture the memory model does not know


def choose_sizes(
    recipe: Recipe,
    config: Mapping[str, object],
    dtype: torch.dtype,
    world_size: int,
    free_bytes: int,
    classes: int = 0,
) -> Sizes:
    """Resolve `auto`: recompute only when a row does not fit without it, then take the most rows that fit.

    `free_bytes` is what this process may use for everything, the base included; `classes` are those of a head.
    """
    training = recipe.training
    try:
        question = replace(_question(recipe, config, dtype, world_size), classes=classes)
    except ModelError:
        rows = 1 if training.micro_batch_size == "auto" else training.micro_batch_size
        return Sizes(rows, training.gradient_checkpointing != "none", None)
    usable = int(USABLE_SHARE * free_bytes)
    if training.gradient_checkpointing == "auto":
        question = replace(question, checkpointing=estimate(question).peak_bytes > usable)
    if training.micro_batch_size == "auto":
        rows = largest_micro_batch(question, usable, training.global_batch_size, world_size)
        question = replace(question, micro_batch_size=rows)
    return Sizes(question.micro_batch_size, question.checkpointing, estimate(question).peak_bytes)


def _question(recipe: Recipe, config: Mapping[str, object], dtype: torch.dtype, world_size: int) -> MemoryQuestion:
    """Ask about one row without recomputation, where the recipe leaves it open."""
    size = recipe.training.micro_batch_size
    return MemoryQuestion(
        shape=shape_from_config(config, recipe.model.path),
        adapter=recipe.adapter,
        quantization=recipe.quantization,
        optimizer=recipe.training.optimizer,
        dtype=cast("BaseDtype", str(dtype).removeprefix("torch.")),
        max_length=recipe.data.max_length,
        micro_batch_size=1 if size == "auto" else size,
        checkpointing=recipe.training.gradient_checkpointing == "full",
        gpus=world_size,
        explicit_attention=recipe.model.attention == "eager",
    )
