"""What a base may be split over processes under."""

from lorafit.recipe.adapters import Dora, Full
from lorafit.recipe.quantization import Int8
from lorafit.recipe.schema import Recipe


def why_whole(recipe: Recipe) -> str | None:
    """Say why the base of this recipe cannot be split over processes; None when it can."""
    if isinstance(recipe.adapter, Full):
        return "full fine-tuning updates every weight, and only a frozen base is split"
    if isinstance(recipe.adapter, Dora):
        return "DoRA begins with the norms of whole weights"
    if isinstance(recipe.quantization, Int8):
        return "int8 weights carry their scales beside them, and cannot be split"
    return None
