"""The layouts of a row: a new one is one file here and one word in `FormatName`."""

from collections.abc import Set as AbstractSet
from typing import Final, Literal, Protocol

from lorafit.errors import DataError
from lorafit.recipe.formats import alpaca, chat, prompt_completion, text
from lorafit.recipe.formats.fields import quoted
from lorafit.recipe.formats.rows import Conversation, Example, Fields, Message, PlainText, RowFault

__all__ = ["Conversation", "Example", "FormatName", "Message", "PlainText", "RowFault", "detect", "parse"]

FormatName = Literal["auto", "chat", "alpaca", "prompt_completion", "text"]


class Format(Protocol):
    """What the module of a format offers."""

    NEEDS: str

    def fits(self, columns: AbstractSet[str], /) -> bool:
        """Say whether a row with these columns looks like this format."""

    def parse(self, fields: Fields, /) -> Example:
        """Read a row; RowFault when it is not one of this format."""


_FORMATS: Final[dict[str, Format]] = {
    "chat": chat,
    "alpaca": alpaca,
    "prompt_completion": prompt_completion,
    "text": text,
}
# They say that some answers are bad, or that a class is wanted: training on the text would be a guess.
_TELLTALES = {"chosen", "rejected", "label", "labels"}
_TEXT_TELLTALES = _TELLTALES | {"category", "class"}


def detect(columns: AbstractSet[str], where: str = "") -> FormatName:
    """Find the one format that a row with these columns fits; DataError when none or several do."""
    found: list[FormatName] = [name for name in _NAMES if _FORMATS[name].fits(columns)]
    telltales = sorted((_TEXT_TELLTALES if found == ["text"] else _TELLTALES) & columns)
    if len(found) == 1 and not telltales:
        return found[0]
    if telltales and found:
        what = f"the columns {quoted(telltales)} ask for more than {' or '.join(found)} would train"
    elif found:
        what = f"the columns {quoted(sorted(columns))} fit several formats: {', '.join(found)}"
    else:
        needs = "; ".join(f"{name}: {_FORMATS[name].NEEDS}" for name in _NAMES)
        what = f"the columns {quoted(sorted(columns))} fit no format ({needs})"
    raise DataError(what, where=where, fix="name one with format, or rename the columns", code="E3-FORMAT")


def parse(name: FormatName, fields: Fields) -> Example:
    """Read a row of a named format; RowFault when it is not one."""
    return _FORMATS[name].parse(fields)


_NAMES: Final[tuple[FormatName, ...]] = ("chat", "alpaca", "prompt_completion", "text")
