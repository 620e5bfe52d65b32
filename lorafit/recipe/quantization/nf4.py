"""NF4: sixteen levels at the quantiles of a normal distribution."""

from typing import Literal

from lorafit.recipe.quantization.bits4 import Bits4


class Nf4(Bits4):
    """Four-bit NormalFloat, the QLoRA base."""

    kind: Literal["nf4"] = "nf4"
