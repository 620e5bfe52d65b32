"""How far the truth may lie from an estimate: what was observed, by how the estimate was made.

`bands.json` is written by `scripts/vram_bands.py` and says what it was made of. A band has two parts: how far traces of
the real step lay from the estimate, and how far cards lay from what a trace counts.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lorafit.plan.question import MemoryQuestion
from lorafit.plan.units import signed_percent
from lorafit.recipe.quantization import Int8


class Band(NamedTuple):
    """Shares of the peak by which the truth may be below and above; `said` is where they come from."""

    below: float
    above: float
    said: str

    def with_own(self, truths: Sequence[float]) -> "Band":
        """Widen it to what this machine's own runs measured, as shares above or below their estimates."""
        if not truths:
            return self
        low, high = min(truths), max(truths)
        said = f"{self.said}; your own {len(truths)} measured runs: {signed_percent(low)} to {signed_percent(high)}"
        return Band(max(self.below, -low), max(self.above, high), said)

    def around(self, peak_bytes: int) -> tuple[int, int]:
        """Give the lowest and the highest truth to expect, in bytes."""
        return round(peak_bytes * (1 - self.below)), round(peak_bytes * (1 + self.above))


def mode(question: MemoryQuestion) -> str:
    """Name the kind of question, as far as errors may differ by it."""
    if question.stack:
        published = question.stack.kernel == "flash_attention_2" and question.checkpointing and not question.classes
        return "transformers" if published else "transformers, other settings"
    if question.sharded:
        return "lorafit, split base"
    if question.classes:
        return "lorafit, classifier"
    if isinstance(question.quantization, Int8):
        return "lorafit, int8"
    return "lorafit, experts" if question.shape.expert_parameters else "lorafit, dense"


def band(question: MemoryQuestion) -> Band:
    """Give the band that observed errors of this kind make; a kind that is not in the table was observed too little."""
    made, kind = _bands(), mode(question)
    found, cards = made["modes"].get(kind), made["cards"]
    if question.shape.read_off:
        return Band(cards["below"], cards["above"], "is what cards showed beyond traced transformers")
    if found is None:
        below, above = made["unobserved"]
        return Band(below, above, "is a guess: too little of this kind was compared with traces or cards")
    if kind == "transformers":
        return Band(found["below"], found["above"], f"holds all of {found['count']} published runs")
    said = (
        f"holds {made['share']:.0%} of {found['count']} traced steps, and what cards showed beyond traced transformers"
    )
    return Band(found["below"] + cards["below"], found["above"] + cards["above"], said)


@cache
def _bands() -> Any:
    return json.loads(Path(__file__).with_name("bands.json").read_text(encoding="utf-8"))
