"""The base of every block of a recipe: frozen, strict, and closed to unknown keys."""

import os

from pydantic import BaseModel, ConfigDict

# a recipe has no plugins, and looking for them reads what every installed package says of itself
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")


class Spec(BaseModel):
    """A block of a recipe. Strict: `"8"` is no number and `true` is no 1; an int may stand for a float."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        defer_build=True,  # a validator is made when it is first asked, not once for each block that holds it
    )
