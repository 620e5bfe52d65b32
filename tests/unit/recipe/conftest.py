"""Load a recipe from a text, and read what is said about it; no file is written."""

import pytest

from lorafit.errors import LorafitError
from lorafit.recipe.load import recipe_from
from lorafit.recipe.schema import Recipe
from recipe.texts import MINIMAL, Faults, Load


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a text, as if from recipe.yaml, with overrides; a text that starts with `+` comes after MINIMAL."""
    monkeypatch.setenv("HOME", "/nowhere/home")

    def load(text: str | bytes, *overrides: str) -> Recipe:
        if isinstance(text, str):
            text = (MINIMAL + text.removeprefix("+") if text.startswith("+") else text).encode()
        return recipe_from(text, "recipe.yaml", overrides)

    return load


@pytest.fixture
def faults(load: Load) -> Faults:
    """Give what is said about a recipe, line by line; nothing when it is good."""

    def faults(text: str | bytes, *overrides: str) -> list[str]:
        try:
            load(text, *overrides)
        except LorafitError as error:
            return str(error).splitlines()
        return []

    return faults
