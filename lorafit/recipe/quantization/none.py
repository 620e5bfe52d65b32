"""No quantisation: the base keeps the dtype of the model."""

from typing import Literal

from lorafit.recipe.spec import Spec


class Unquantized(Spec):
    """The base as it is."""

    kind: Literal["none"] = "none"
