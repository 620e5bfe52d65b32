"""Full fine-tuning: no adapter, every weight is trained."""

from typing import Literal

from lorafit.recipe.spec import Spec


class Full(Spec):
    """Train the whole model; the run then holds a model and no adapter."""

    kind: Literal["full"] = "full"
