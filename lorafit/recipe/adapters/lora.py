"""LoRA: y = W x + (alpha / rank) B A x, with W frozen (arXiv 2106.09685)."""

from typing import Literal

from lorafit.recipe.adapters.low_rank import LowRank


class Lora(LowRank):
    """Low-rank adaptation; `rslora: true` gives the rank-stabilised scale."""

    kind: Literal["lora"] = "lora"
