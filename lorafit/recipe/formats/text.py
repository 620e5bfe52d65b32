"""Running text, every token of which is trained."""

from collections.abc import Set as AbstractSet

from lorafit.recipe.formats.fields import text
from lorafit.recipe.formats.rows import Fields, PlainText

NEEDS = '"text"'
FIELDS = ("text",)


def fits(columns: AbstractSet[str]) -> bool:
    """Say whether a row with these columns is running text."""
    return "text" in columns


def parse(fields: Fields) -> PlainText:
    """Read the text; RowFault when it is empty or not text."""
    return PlainText("", text(fields, "text"))
