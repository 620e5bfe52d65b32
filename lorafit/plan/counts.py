"""Counts as people write them: 8k tokens of a row, 1e9 or 1.5B tokens to train on."""

import re

from lorafit.errors import RecipeError

_COUNT = re.compile(r"(\d{1,15}(?:\.\d{1,15})?(?:e\d{1,2})?)\s*([kmbt]?)", re.IGNORECASE)
_TIMES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
LONGEST_ROW = 10_000_000  # as in a recipe
MOST_TOKENS = 10**18


def tokens_of_a_row(text: str) -> int:
    """Read `--max-length`: 8192, 8,192 or 8k, which is 8 x 1,024. Raises RecipeError."""
    return _count(text, "--max-length", range(8, LONGEST_ROW + 1), "8192 or 8k", thousand=1024)


def tokens_to_train_on(text: str) -> int:
    """Read `--tokens`: 1000000000, 1e9, 1B, 500M. Raises RecipeError."""
    return _count(text, "--tokens", range(1, MOST_TOKENS + 1), "1000000000, 1e9 or 1B")


def _count(text: str, option: str, allowed: range, example: str, thousand: int = 1000) -> int:
    found = _COUNT.fullmatch(text.strip().replace(",", "").replace("_", ""))
    if found is None:
        raise _fault(f"{text[:40]!r} is no number of tokens", option, example)
    times = thousand if found[2].lower() == "k" else _TIMES[found[2].lower()]
    value = float(found[1]) * times
    count = int(found[1]) * times if found[1].isdecimal() else round(value)
    if abs(count - value) > 1e-6 * value:
        raise _fault(f"{text[:40]!r} is no whole number", option, example)
    if count not in allowed:
        raise _fault(f"{text[:40]!r} is not from {allowed[0]:,} to {allowed[-1]:,}", option, example)
    return count


def _fault(what: str, option: str, example: str) -> RecipeError:
    return RecipeError(what, where=option, fix=f"write {example}", code="E2-USAGE")
