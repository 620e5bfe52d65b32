"""What is wrong with the words of a command line, with what was found in place of a value."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from lorafit.errors import RecipeError

if TYPE_CHECKING:
    from typer.exceptions import TyperException


def usage_fault(error: "TyperException", words: Sequence[str]) -> RecipeError:
    """Put Typer's complaint about these words as any other fault is put."""
    what = error.format_message().removesuffix(".")
    found = _found(getattr(getattr(error, "param", None), "opts", ()), words)
    if found is not None and found not in what:
        what = f"{what}, found {found}"
    return RecipeError(what, fix="`--help` tells what a command takes", code="E2-USAGE")


def _found(options: Sequence[str], words: Sequence[str]) -> str | None:
    from lorafit.recipe.problems import printable  # only here, for a command that goes well needs it not

    parts = [part for word in words for part in word.split("=", 1)]
    values = [value for option, value in pairwise(parts) if option in options]
    return printable(values[-1]) if values else None
