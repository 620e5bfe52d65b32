"""DoRA: y = m * (W + scale B A) x / ||W + scale B A||, the norm over each output row (arXiv 2402.09353)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from lorafit.recipe.adapters.low_rank import LowRank

if TYPE_CHECKING:
    from peft import LoraConfig


class Dora(LowRank):
    """Weight-decomposed low-rank adaptation: direction by LoRA, magnitude trained on its own."""

    kind: Literal["dora"] = "dora"

    def trainable_parameters(self, linears: Iterable[tuple[int, int]]) -> int:
        """LoRA's numbers and one magnitude per output."""
        pairs = list(linears)
        return super().trainable_parameters(pairs) + sum(d_out for _, d_out in pairs)

    def build(self, targets: list[str], **variant: Any) -> "LoraConfig":
        """Make PEFT's configuration with the magnitude switched on."""
        return super().build(targets, use_dora=True, **variant)
