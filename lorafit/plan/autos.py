"""Every `auto` that trades memory for time, resolved once for all: an estimate and a run take the same way."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from lorafit.plan.layers import ModelShape
from lorafit.plan.memory import estimate, largest_micro_batch
from lorafit.plan.question import BaseDtype, Estimate, MemoryQuestion
from lorafit.plan.recompute import with_least_recomputation
from lorafit.plan.shards import is_split
from lorafit.plan.stack import Stack
from lorafit.plan.unpacked import ROOM_SHARE, with_most_unpacked
from lorafit.recipe.schema import Recipe


class Room(NamedTuple):
    """What a step may take of a device, and of the host beside it; `taken` is what is held against `bytes`."""

    bytes: int
    host_bytes: float = math.inf
    taken: Callable[[Estimate], int] = lambda found: found.on_card_bytes

    def holds(self, question: MemoryQuestion, share: float = 1.0) -> bool:
        """Tell whether a step fits into so much of it."""
        return self.taken(estimate(question)) <= share * self.bytes


def least_question(
    recipe: Recipe, shape: ModelShape, dtype: BaseDtype, gpus: int, stack: Stack | None = None, classes: int = 0
) -> MemoryQuestion:
    """Ask about a recipe with every `auto` at its least: one row a pass, every layer recomputed, a whole base.

    `classes` are those of a classification head, 0 without one.
    """
    training = recipe.training
    rows = 1 if training.micro_batch_size == "auto" else training.micro_batch_size
    return MemoryQuestion(
        shape=shape,
        adapter=recipe.adapter,
        quantization=recipe.quantization,
        optimizer=training.optimizer,
        dtype=dtype,
        max_length=recipe.data.max_length,
        micro_batch_size=rows,
        checkpointing=training.gradient_checkpointing != "none",
        offloaded=training.gradient_checkpointing == "offloaded",
        accumulation=rows < rows_of_process(recipe, gpus),
        gpus=gpus,
        explicit_attention=recipe.model.attention == "eager",
        stack=stack,
        classes=classes,
    )


def resolve(recipe: Recipe, least: MemoryQuestion, room: Room | None) -> MemoryQuestion:
    """Split and recompute only what does not fit without; then take the most rows, then unpack the most layers.

    Without a `room` everything stays at its least, and is split only where the recipe says so.
    """
    question = replace(least, sharded=is_split(recipe, least, lambda asked: room is None or room.holds(asked)))
    if room is None:
        return question
    question = replace(question, offloaded=question.offloaded and room.host_bytes > 0)
    if recipe.training.gradient_checkpointing == "auto":
        question = with_least_recomputation(question, room.holds, has_host=_has_host(question, room))
    if recipe.training.micro_batch_size == "auto":
        question = _with_most_rows(recipe, question, room)
    return with_most_unpacked(question, lambda asked: room.holds(asked, ROOM_SHARE))


def rows_of_process(recipe: Recipe, gpus: int) -> int:
    """Rows that one process takes in a step."""
    return -(-recipe.training.global_batch_size // gpus)


def _with_most_rows(recipe: Recipe, question: MemoryQuestion, room: Room) -> MemoryQuestion:
    most = largest_micro_batch(question, room.bytes, recipe.training.global_batch_size, question.gpus)
    return question.with_rows(most, rows_of_process(recipe, question.gpus))


def _has_host(question: MemoryQuestion, room: Room) -> bool:
    """Plain transformers keeps nothing on the host."""
    on_host = estimate(replace(question, checkpointing=True, offloaded=True)).host_bytes
    return question.stack is None and on_host <= room.host_bytes
