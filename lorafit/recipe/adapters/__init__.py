"""The kinds of adapter: a new kind is one file here and one word in the union."""

from typing import Annotated

from pydantic import Field

from lorafit.recipe.adapters.dora import Dora
from lorafit.recipe.adapters.full import Full
from lorafit.recipe.adapters.lora import Lora
from lorafit.recipe.adapters.low_rank import LowRank, RegexTargets, TargetModules

Adapter = Annotated[Lora | Dora | Full, Field(discriminator="kind")]

__all__ = ["Adapter", "Dora", "Full", "Lora", "LowRank", "RegexTargets", "TargetModules"]
