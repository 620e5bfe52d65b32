"""What a command found, for a person and, where it is asked for, for a program."""

from typing import Any, Protocol

from lorafit.report.output import emit
from lorafit.report.progress import say


class Result(Protocol):
    """Anything that can be told both ways."""

    def as_text(self) -> str:
        """Give the facts for a person."""

    def as_json(self) -> dict[str, Any]:
        """Give them for a program."""


def tell(result: Result, as_json: bool) -> None:
    """Print it for a person on standard error, and for a program on standard output."""
    say(result.as_text())
    if as_json:
        emit(result.as_json())
