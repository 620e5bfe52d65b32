"""The values of plain words in YAML: the core schema of YAML 1.2, not the surprises of 1.1.

So `2e-4` and `1E5` are floats, `0o17` and `0x1F` are ints and `0123` is 123; `no`, `on`, `yes`, `12:30:45`,
`2024-01-01` and `1_000` are text. Source: YAML 1.2.2, section 10.3.2.
"""

import re

MAX_DIGITS = 100  # no number of a recipe is near it, and Python refuses to read very long ones

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BASES = {"0o": 8, "0x": 16}


def plain_scalar(text: str) -> bool | int | float | str | None:
    """Give the value of an unquoted word; ValueError for an int of more than MAX_DIGITS digits."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a whole number of {len(text)} digits")
        return int(text[2:], _BASES[text[:2]]) if text[:2] in _BASES else int(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return float(text) if _FLOAT.fullmatch(text) else text
