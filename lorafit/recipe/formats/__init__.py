"""The layouts of a row: a new one is one file here and one word in `FormatName`."""

from collections.abc import Set as AbstractSet
from typing import Final, Literal, Protocol

from lorafit.errors import DataError
from lorafit.recipe.formats import alpaca, chat, classification, preference, prompt_completion, text, tokens
from lorafit.recipe.formats.fields import quoted
from lorafit.recipe.formats.rows import (
    Conversation,
    Example,
    Fields,
    Labelled,
    Message,
    PlainText,
    Preference,
    RowFault,
    TokenSequence,
)

__all__ = [
    "FORMATS",
    "Conversation",
    "Example",
    "FormatName",
    "Labelled",
    "Message",
    "PlainText",
    "Preference",
    "RowFault",
    "TokenSequence",
    "detect",
    "fields_of",
    "parse",
]

FormatName = Literal["auto", "chat", "alpaca", "prompt_completion", "text", "classification", "preference", "tokens"]


class Format(Protocol):
    """What the module of a format offers."""

    @property
    def NEEDS(self) -> str:
        """The columns that make a row one of this format, in words."""

    @property
    def FIELDS(self) -> tuple[str, ...]:
        """Every field that the format reads."""

    def fits(self, columns: AbstractSet[str], /) -> bool:
        """Say whether a row with these columns looks like this format."""

    def parse(self, fields: Fields, /) -> Example:
        """Read a row; RowFault when it is not one of this format."""


FORMATS: Final[dict[FormatName, Format]] = {
    "chat": chat,
    "alpaca": alpaca,
    "prompt_completion": prompt_completion,
    "text": text,
    "classification": classification,
    "preference": preference,
    "tokens": tokens,
}
# They say that some answers are bad, or that a class is wanted: training on the text would be a guess.
_TELLTALES = {"chosen", "rejected", "label", "labels"}


def detect(columns: AbstractSet[str], where: str = "") -> FormatName:
    """Find the one format that a row with these columns fits; DataError when none or several do."""
    found = _fitting(columns)
    telltales = sorted(_TELLTALES & columns - set(FORMATS[found[0]].FIELDS)) if len(found) == 1 else []
    if len(found) == 1 and not telltales:
        return found[0]
    if telltales:
        what = f"the columns {quoted(telltales)} ask for more than {found[0]} would train"
    elif found:
        what = f"the columns {quoted(sorted(columns))} fit several formats: {', '.join(found)}"
    else:
        needs = "; ".join(f"{name}: {layout.NEEDS}" for name, layout in FORMATS.items())
        what = f"the columns {quoted(sorted(columns))} fit no format ({needs})"
    raise DataError(what, where=where, fix=_FIX, code="E3-FORMAT")


def fields_of(name: FormatName) -> tuple[str, ...]:
    """Give the fields that rows of a format may have; for auto those of all formats."""
    if name != "auto":
        return FORMATS[name].FIELDS
    return tuple(dict.fromkeys(field for layout in FORMATS.values() for field in layout.FIELDS))


def parse(name: FormatName, fields: Fields) -> Example:
    """Read a row of a named format; RowFault when it is not one."""
    return FORMATS[name].parse(fields)


def _fitting(columns: AbstractSet[str]) -> list[FormatName]:
    found = [name for name, layout in FORMATS.items() if layout.fits(columns)]
    if "preference" in found and {"chosen", "rejected"} <= columns:
        found = [name for name in found if name not in ("chat", "text")]  # they are the prompt
    if "classification" in found and "text" in found:
        found.remove("text")
    return found


_FIX: Final = (
    "name one with format, or say with columns which is which: columns: {prompt: question, completion: answer}"
)
