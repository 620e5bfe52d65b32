"""What to do about a device that is full even with one row a pass: changes to the recipe, from the memory model."""

from dataclasses import replace

from lorafit.errors import OutOfMemory, first_line
from lorafit.model.load import computes_in_bfloat16, pick_device
from lorafit.plan.advice import advise
from lorafit.plan.memory import estimate
from lorafit.report.units import gibibytes
from lorafit.train.sizes import Sizes

MOST_EDITS = 3


def does_not_fit(error: BaseException, sizes: Sizes | None) -> OutOfMemory:
    """Say that memory ran out, what was estimated, and what takes less; `sizes` is None before they were chosen."""
    expected = f"; one row a pass was estimated at {_gib(sizes)}" if sizes and sizes.question else ""
    return OutOfMemory(
        f"out of device memory: {first_line(error)}{expected}",
        fix="; or ".join(edits(sizes)) or "halve data.max_length, or set quantization.kind: nf4",
        code="E6-OOM",
    )


def edits(sizes: Sizes | None) -> list[str]:
    """Name the changes, each alone, that the memory model finds to fit; where none does, those that save the most."""
    if sizes is None or sizes.question is None:
        return []
    question = replace(sizes.question, micro_batch_size=1)
    needed = estimate(question).peak_bytes - sizes.usable_bytes
    found = advise(question, bfloat16=computes_in_bfloat16(pick_device()))
    fitting = [advice for advice in found if advice.saves_bytes >= needed] or found
    return [f"{advice.change} (-{gibibytes(advice.saves_bytes)})" for advice in fitting[:MOST_EDITS]]


def _gib(sizes: Sizes) -> str:
    assert sizes.question is not None
    return gibibytes(estimate(replace(sizes.question, micro_batch_size=1)).peak_bytes)
