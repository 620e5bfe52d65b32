"""LLM.int8(): eight-bit weights, one scale per row, outlier columns kept in 16 bits (arXiv 2208.07339)."""

from typing import TYPE_CHECKING, Literal

from lorafit.recipe.spec import Spec

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig


class Int8(Spec):
    """Eight-bit base weights."""

    kind: Literal["int8"] = "int8"

    def bytes_per_weight(self) -> float:
        """One byte; the row scales are counted by the shape of each weight."""
        return 1.0

    def build(self, compute_dtype: "torch.dtype") -> "BitsAndBytesConfig":
        """Make transformers' configuration; int8 computes in the dtype of its input."""
        del compute_dtype
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_8bit=True)
