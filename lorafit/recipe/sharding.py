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


def why_unsplit(recipe: Recipe, processes: int) -> str | None:
    """Say why `training.sharding: full` splits nothing among so many processes; None where it splits, or need not.

    What a run and an estimate both say, and neither refuses: the same recipe is for one process and for several.
    """
    if recipe.training.sharding != "full" or processes > 1:
        return None
    return "training.sharding: full needs several processes (--gpus N): this one holds the whole base"
