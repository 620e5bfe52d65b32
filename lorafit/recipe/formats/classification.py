"""A text (or two) and the class it belongs to."""

from collections.abc import Set as AbstractSet
from typing import Any, Final

from lorafit.recipe.formats.fields import kind_of, quoted, shortened, text, text_value
from lorafit.recipe.formats.rows import Fields, Labelled, RowFault

NEEDS: Final = '"text" (or "sentence", "sentence1" and "sentence2", "premise" and "hypothesis"), "label"'
FIELDS: Final = ("text", "text_pair", "label")
LABELS: Final = ("label", "category", "class", "intent")
# What the text and the second text are called: the first whose names are all there.
_TEXTS: Final = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("text", None),
    ("sentence", None),
)


def fits(columns: AbstractSet[str]) -> bool:
    """Say whether a row with these columns is a text with its class."""
    return bool(_text_columns(columns)) and any(name in columns for name in LABELS)


def columns_of(columns: AbstractSet[str]) -> dict[str, str]:
    """Give the column of each field; RowFault where the label could be several."""
    named = [name for name in LABELS if name in columns]
    if len(named) > 1 and "label" not in named:
        raise RowFault(f"the columns {quoted(named)} could each be the label", "E3-FORMAT")
    return _text_columns(columns) | ({"label": named[0]} if named else {})


def parse(fields: Fields) -> Labelled:
    """Read a row; RowFault when it lacks a text or a label of a kind that names a class."""
    columns = columns_of(fields.keys())
    pair = columns.get("text_pair")
    return Labelled(
        text(fields, columns.get("text", "text")),
        text(fields, pair) if pair else None,
        _label(fields, columns.get("label", "label")),
    )


def _text_columns(columns: AbstractSet[str]) -> dict[str, str]:
    for first, second in _TEXTS:
        if first in columns and (second is None or second in columns):
            return {"text": first} | ({"text_pair": second} if second else {})
    return {}


def _label(fields: Fields, name: str) -> str:
    value: Any = fields.get(name)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if name in fields and value is not None and not isinstance(value, str):
        reason = f'field "{name}" is {kind_of(value)}, expected text, an integer, or true or false'
        raise RowFault(reason, "E3-ROW-TYPE", shortened(repr(value)))
    if value is not None:
        text_value(value, f'field "{name}"')
    return text(fields, name)
