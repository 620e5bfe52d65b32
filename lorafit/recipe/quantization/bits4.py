"""Four-bit weights of bitsandbytes: blocks of 64 values share one scale (QLoRA, arXiv 2305.14314)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorafit.recipe.spec import Spec

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

BLOCK_VALUES = 64  # weights that share one scale
BLOCK_SCALES = 256  # scales that share one scale of their own, under double quantisation


class Bits4(Spec):
    """Settings that NF4 and FP4 share."""

    kind: Literal["nf4", "fp4"]
    double_quant: bool = Field(
        default=True, description="Quantise the scales too: 4.13 instead of 4.5 bits per weight."
    )
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Type the weights are unpacked to for each product; auto: the model's dtype.",
    )
    keep_unpacked: Literal["auto", "none"] = Field(
        default="auto",
        description="Layers whose weights are unpacked once and stay so while training: the same numbers in less time. "
        "auto: as many as fit beside everything else.",
    )

    def bytes_per_weight(self) -> float:
        """Half a byte and this weight's share of the scales."""
        scales = 1 / BLOCK_VALUES + 4 / (BLOCK_VALUES * BLOCK_SCALES) if self.double_quant else 4 / BLOCK_VALUES
        return 0.5 + scales

    def build(self, compute_dtype: "torch.dtype") -> "BitsAndBytesConfig":
        """Make transformers' configuration; weights are stored in the compute dtype's width for sharding."""
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.kind,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=compute_dtype,
        )
