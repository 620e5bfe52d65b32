"""The nearest known words, for messages."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Give the known words most like this one, best first, whatever their case; none when nothing is like it."""
    by_lower = {each.lower(): each for each in known}
    return [by_lower[match] for match in get_close_matches(word.lower(), by_lower, n=count, cutoff=0.5)]
