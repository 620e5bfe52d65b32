"""How many rows a forward pass takes, and whether activations are recomputed: from the memory model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch

from lorafit.errors import ModelError
from lorafit.plan.autos import Room, least_question, resolve
from lorafit.plan.memory import estimate
from lorafit.plan.question import BaseDtype, Estimate, MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.plan.unpacked import why_packed
from lorafit.plan.workspace import WORKSPACE_BYTES
from lorafit.recipe.schema import Recipe

USABLE_SHARE = 0.85  # of what is free: the estimate is honest to about a tenth


@dataclass(frozen=True)
class Sizes:
    """The settings that trade memory for time, and the peak that is expected of them."""

    micro_batch_size: int
    recomputed_layers: int | None  # of the first ones; None: all of them, as many as there may be
    estimated_peak_bytes: int | None  # None for an architecture the memory model does not know
    layers: int | None = None  # that the model has, where it is known
    sharded: bool = False  # the base is split over the processes
    offloaded: bool = False  # the inputs of recomputed layers wait on the host
    unpacked_layers: int = 0  # of a 4-bit base: so many of the first ones stay unpacked
    expected: Estimate | None = None  # all that the memory model says
    question: MemoryQuestion | None = None  # what it was asked
    usable_bytes: int = 0  # that the answer was to fit

    @property
    def chosen_unpacked(self) -> int | None:
        """Give how many layers stay unpacked by choice; None where none may."""
        return self.unpacked_layers if self.question and not why_packed(self.question) else None


def choose_sizes(
    recipe: Recipe,
    config: Mapping[str, object],
    dtype: torch.dtype,
    world_size: int,
    free_bytes: int,
    classes: int = 0,
    host_bytes: int = 0,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Sizes:
    """Resolve `auto`: split the base, and recompute, only when a row does not fit without; then take the most rows,
    and of a 4-bit base keep the most layers unpacked.

    `free_bytes` is what this process may use for everything, the base included, `host_bytes` what it may use of this
    machine beside the device, 0 where that is the device; `classes` are those of a head; `workspace_bytes` is what
    torch takes on the device for products.
    """
    training = recipe.training
    try:
        shape = shape_from_config(config, recipe.model.path)
    except ModelError:
        rows = 1 if training.micro_batch_size == "auto" else training.micro_batch_size
        again = 0 if training.gradient_checkpointing == "none" else None
        return Sizes(
            rows,
            again,
            None,
            sharded=training.sharding == "full" and world_size > 1,
            offloaded=training.gradient_checkpointing == "offloaded",
        )
    room = Room(int(USABLE_SHARE * free_bytes), int(USABLE_SHARE * host_bytes), lambda found: found.peak_bytes)
    width = cast("BaseDtype", str(dtype).removeprefix("torch."))
    least = replace(least_question(recipe, shape, width, world_size, classes=classes), workspace_bytes=workspace_bytes)
    question = resolve(recipe, least, room)
    found = estimate(question)
    return Sizes(
        micro_batch_size=question.micro_batch_size,
        recomputed_layers=question.recomputed,
        estimated_peak_bytes=found.peak_bytes,
        layers=len(question.shape.layers),
        sharded=question.sharded,
        offloaded=question.offloaded or training.gradient_checkpointing == "offloaded",
        unpacked_layers=question.unpacked_layers,
        expected=found,
        question=question,
        usable_bytes=room.bytes,
    )


def unpacked_as_before(sizes: Sizes, layers: int | None) -> Sizes:
    """Keep as many layers unpacked as a run did that goes on (None: it begins), where layers may be at all."""
    if layers is None or sizes.question is None or sizes.chosen_unpacked is None:
        return sizes
    question = replace(sizes.question, unpacked_layers=layers)
    found = estimate(question)
    return replace(
        sizes, unpacked_layers=layers, estimated_peak_bytes=found.peak_bytes, expected=found, question=question
    )
