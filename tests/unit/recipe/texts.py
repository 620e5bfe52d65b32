"""Recipes to start from, and the types of the fixtures that load them."""

from collections.abc import Callable

from lorafit.recipe.schema import Recipe

MINIMAL = "version: 1\nmodel: {path: builtin:tiny}\ndata: {train: {path: builtin:sql}}\n"
MINIMAL_LINES = MINIMAL.count("\n")

Load = Callable[..., Recipe]
Faults = Callable[..., list[str]]
