"""Reading one field of a row, strictly: nothing is converted, nothing is guessed."""

from collections.abc import Iterable
from typing import Any

from lorafit.recipe.formats.rows import Fields, RowFault

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def kind_of(value: object) -> str:
    """Name the JSON type of a value in words."""
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def text(fields: Fields, name: str, *, blank: bool = False) -> str:
    """Give a text field; RowFault when it is missing, null, not text or (unless `blank`) empty."""
    if name not in fields:
        raise RowFault(f'field "{name}" is missing', "E3-ROW-MISSING", f"the fields are {quoted(fields)}")
    value = text_value(fields[name], f'field "{name}"')
    if not blank and is_blank(value):
        raise RowFault(f'field "{name}" is empty', "E3-ROW-EMPTY")
    return value


def optional_text(fields: Fields, name: str) -> str:
    """Give a text field that may be missing or empty, but not null or of another type."""
    return text(fields, name, blank=True) if name in fields else ""


def is_blank(value: str) -> bool:
    """Say whether a text is empty, or nothing but white space."""
    return not value or value.isspace()


def text_value(value: Any, what: str) -> str:
    """Check that a value is text that UTF-8 can hold."""
    if isinstance(value, str) and value.isascii() and "\0" not in value:  # nearly every text, at once
        return value
    if value is None:
        raise RowFault(f"{what} is null", "E3-ROW-NULL")
    if not isinstance(value, str):
        raise RowFault(f"{what} is {kind_of(value)}, expected text", "E3-ROW-TYPE", shortened(repr(value)))
    if "\0" in value:
        raise RowFault(f"{what} holds the character U+0000", "E3-ROW-NUL")
    if not _is_unicode(value):
        raise RowFault(f"{what} holds half of a surrogate pair, which no text can", "E3-ROW-SURROGATE")
    return value


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def list_of_objects(value: Any, what: str) -> list[dict[str, Any]]:
    """Check that a value is a list of objects."""
    if value is None:
        raise RowFault(f"{what} is null", "E3-ROW-NULL")
    if not isinstance(value, list):
        raise RowFault(f"{what} is {kind_of(value)}, expected a list", "E3-ROW-TYPE")
    for item in value:
        if not isinstance(item, dict):
            raise RowFault(f"{what} holds {kind_of(item)}, expected objects", "E3-ROW-TYPE")
    return value


def quoted(names: Iterable[str]) -> str:
    """List names for a message."""
    return ", ".join(f'"{name}"' for name in names)


def shortened(shown: str, limit: int = 60) -> str:
    """Cut a value that is shown in a message."""
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
