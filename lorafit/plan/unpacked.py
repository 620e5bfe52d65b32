"""How many layers of a 4-bit base stay unpacked: as many as find room beside everything else."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from lorafit.plan.question import MemoryQuestion
from lorafit.recipe.quantization import Bits4

ROOM_SHARE = 0.8  # of what a step may use: a few per cent of time are not worth a device that is full to the brim


def with_most_unpacked(question: MemoryQuestion, fits: Callable[[MemoryQuestion], bool]) -> MemoryQuestion:
    """Keep the largest number of layers unpacked that fits, the first ones: those are recomputed, and read once more.

    None where that would give other numbers (products in another dtype than the model's), and none of a base that is
    split for want of room.
    """
    if why_packed(question):
        return question
    asked = [replace(question, unpacked_layers=count) for count in range(1, len(question.shape.layers) + 1)]
    count = bisect_left(asked, True, key=lambda more: not fits(more))
    return asked[count - 1] if count else question


def why_packed(question: MemoryQuestion) -> str:
    """Say why no layer may stay unpacked, whatever the room; "" where layers may."""
    quantization = question.quantization
    if not isinstance(quantization, Bits4):
        return "the base is not in 4 bits"
    if quantization.keep_unpacked == "none":
        return "as the recipe says"
    if question.sharded:
        return "the base is split over processes"
    if not question.fused:
        return "only lorafit's own linears compute the same from both"
    if quantization.compute_dtype not in ("auto", question.dtype):
        return f"products are in {quantization.compute_dtype}, the model in {question.dtype}"
    return ""
