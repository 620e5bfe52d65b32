"""The ways to hold the frozen base: a new one is one file here and one word in the union."""

from typing import Annotated

from pydantic import Field

from lorafit.recipe.quantization.bits4 import Bits4
from lorafit.recipe.quantization.fp4 import Fp4
from lorafit.recipe.quantization.int8 import Int8
from lorafit.recipe.quantization.nf4 import Nf4
from lorafit.recipe.quantization.none import Unquantized

Quantization = Annotated[Unquantized | Nf4 | Fp4 | Int8, Field(discriminator="kind")]

__all__ = ["Bits4", "Fp4", "Int8", "Nf4", "Quantization", "Unquantized"]
