"""FP4: four-bit floating point, a little worse than NF4 for weights."""

from typing import Literal

from lorafit.recipe.quantization.bits4 import Bits4


class Fp4(Bits4):
    """Four-bit floating point."""

    kind: Literal["fp4"] = "fp4"
