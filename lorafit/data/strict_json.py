"""JSON as the standard has it: no duplicate keys, no NaN, no half characters, no bottomless nesting."""

import json
import math
import re
from typing import Any

from lorafit.recipe.formats import RowFault

MAX_DEPTH = 100
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(text: str) -> Any:
    """Read one JSON value; RowFault says what is wrong with it."""
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowFault(*_syntax(error)) from None
    except RecursionError:
        raise _too_deep() from None
    return checked(value, text)


def parse_at(text: str, start: int) -> tuple[Any, int]:
    """Read the JSON value that starts at a character; give it and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise RowFault(*_syntax(error)) from None
    except RecursionError:
        raise _too_deep() from None
    return checked(value, text[start:end]), end


def checked(value: Any, text: str) -> Any:
    """Check what the grammar lets pass: depth, and halves of surrogate pairs."""
    if text.count("[") + text.count("{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise _too_deep()
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RowFault("holds half of a surrogate pair, which no text can", "E3-ROW-SURROGATE") from None
    return value


def _syntax(error: json.JSONDecodeError) -> tuple[str, str, str]:
    found = error.doc[error.pos : error.pos + 20]
    message = error.msg[:1].lower() + error.msg[1:]
    if found.startswith("'"):
        message = "single quotes where JSON wants double ones"
    return f"not valid JSON: {message}", "E3-ROW-JSON", f"column {error.colno}, at {found!r}"


def _too_deep() -> RowFault:
    return RowFault(f"nested deeper than {MAX_DEPTH} levels", "E3-ROW-DEPTH")


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        if not inner:
            return False
        level = inner
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    keys = [key for key, _ in pairs]
    double = next(key for key in keys if keys.count(key) > 1)
    raise RowFault(f'the key "{double}" stands there twice', "E3-ROW-DUPLICATE-KEY")


def _constant(name: str) -> Any:
    raise RowFault(f"holds {name}, which is not JSON", "E3-ROW-NAN")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise RowFault("holds a number too large for any use", "E3-ROW-NUMBER", text[:40])
    return number


def _integer(text: str) -> int:
    if len(text) > 400:
        raise RowFault("holds a number too large for any use", "E3-ROW-NUMBER", f"{text[:20]}...")
    return int(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite, parse_int=_integer
)
