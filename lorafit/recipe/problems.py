"""What is wrong in a recipe and where, and how a value is shown: short, on one line, without secrets."""

from typing import NamedTuple

from lorafit.errors import Fault, LorafitError, RecipeError, SafetyRefusal
from lorafit.recipe.secrets import redacted

KeyPath = tuple[str | int, ...]

EXCERPT_CHARACTERS = 60


class Place(NamedTuple):
    """Line and column, from 1, of a file; line 0 stands for an argument of the command line."""

    line: int
    column: int
    source: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Problem(NamedTuple):
    """One thing that is wrong with the key or the value at a path of the recipe.

    `depends_on` names other values that this rests on: while one of them is wrong itself, nothing is said.
    """

    path: KeyPath
    what: str
    fix: str = ""
    code: str = "E2-VALUE"
    at_key: bool = False
    depends_on: tuple[KeyPath, ...] = ()


class Located(NamedTuple):
    """A problem and its place; without a path where the text itself cannot be read."""

    place: Place
    problem: Problem

    def fault(self) -> Fault:
        """Give the sentence for the user."""
        keys = dotted(self.problem.path)
        where = f"{self.place}: {keys}" if keys else str(self.place)
        return Fault(self.problem.what, where, self.problem.fix, self.problem.code)


def error_of(located: list[Located]) -> LorafitError:
    """Make one error of all problems, by line; a refusal for safety gives the exit code when there is one."""
    faults = [one.fault() for one in sorted(located, key=lambda one: (one.place, one.problem.what))]
    unsafe = any(one.problem.code.startswith("E12") for one in located)
    return SafetyRefusal(faults) if unsafe else RecipeError(faults)


def child_value(value: object, part: str | int) -> object:
    """Give what stands under a key or a list's number; None where there is nothing."""
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def value_at(path: KeyPath, value: object) -> object:
    """Give what stands at a path; None where there is nothing."""
    for part in path:
        value = child_value(value, part)
    return value


def printable(text: str, limit: int = EXCERPT_CHARACTERS) -> str:
    """Give text that is safe on a terminal: no control or invisible characters, no secret, not long."""
    clean = redacted(text)
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in clean[: limit + 1])
    return escaped if len(escaped) <= limit else escaped[:limit] + "..."


def shown(value: object) -> str:
    """Give a value of the recipe the way a user would say it."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{printable(value)}"'
        case dict():
            return "a block of keys"
        case list():
            return f"a list of {len(value)}"
        case _:
            return printable(repr(value))


def dotted(path: KeyPath) -> str:
    """Give a path as the user would write it after `--set`."""
    return printable(".".join(map(str, path)), 120)
