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
    found = _found(error, words)
    if found is not None and f"'{found}'" not in what:
        what = f"{what}, found '{found}'"
    return RecipeError(what, fix="`--help` tells what a command takes", code="E2-USAGE")


def _found(error: "TyperException", words: Sequence[str]) -> str | None:
    """The value that an option was given and cannot have; None where it is not a value that is wrong."""
    from typer._click.exceptions import BadParameter, MissingParameter  # only here, and where Typer is there already

    from lorafit.recipe.problems import printable

    if not isinstance(error, BadParameter) or isinstance(error, MissingParameter) or error.param is None:
        return None
    options = [name for name in error.param.opts if name.startswith("-")]
    parts = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    values = [value for option, value in pairwise(parts) if option in options]
    return printable(values[-1]) if values else None
