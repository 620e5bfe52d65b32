"""Tokens as a person can read them: the text of each, nothing hidden in it, nothing that drives a terminal."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BROKEN = "\ufffd"  # what a decoder writes for bytes that are not yet a character
LONGEST_CHARACTER = 8  # tokens that one character, with what joins it, may take
_SHOWN_AS = {"\n": "↵\n", "\t": "⇥", " ": "·"}
_JOINERS = "\u200c\u200d"  # they shape letters and pictures, and move nothing else
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp")

Decode = Callable[[list[int]], str]


@dataclass(frozen=True)
class Piece:
    """A token, or the several that make up one character."""

    text: str
    tokens: int
    trained: bool
    special: bool


def visible(text: str) -> str:
    """Write a text so that every character can be seen, and none is obeyed; a line still ends where it ends."""
    if not text.strip(_JOINERS):  # a joiner with nothing to join
        return "".join(map(_spelled, text))
    return "".join(_SHOWN_AS.get(character) or _plain(character) for character in text)


def printable(text: str) -> str:
    """Write a line of our own, which may quote a name or a row, without what a terminal would obey."""
    return "".join(character if character in " \n" else _plain(character) for character in text)


def _plain(character: str) -> str:
    hidden = unicodedata.category(character) in _INVISIBLE and character not in _JOINERS
    return _spelled(character) if hidden else character


def _spelled(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩"


def pieces(
    ids: Sequence[int], trained: Sequence[bool], special: frozenset[int], decode: Decode, start: int, end: int
) -> list[Piece]:
    """Cut the tokens `start` to `end` of a row into what each adds to its text.

    A token is decoded behind the one before it: alone, some tokenizers would drop the space it begins with.
    """
    found, before = [], max(0, start - 1)
    while start < end:
        after = _character_end(ids, trained, special, decode, start, end)
        led, whole = decode(list(ids[before:start])), decode(list(ids[before:after]))
        follows = whole.startswith(led) and not led.endswith(BROKEN)
        text = whole.removeprefix(led) if follows else decode(list(ids[start:after]))
        found.append(Piece(text, after - start, bool(trained[start]), ids[start] in special))
        before, start = start, after
    return found


def _character_end(
    ids: Sequence[int], trained: Sequence[bool], special: frozenset[int], decode: Decode, start: int, end: int
) -> int:
    """Give where the character that begins at a token is whole; the next token where it never is."""
    for after in range(start + 1, min(end, start + LONGEST_CHARACTER) + 1):
        if not decode(list(ids[start:after])).endswith(BROKEN):
            return after
        if after == end or trained[after] != trained[start] or ids[after] in special:
            break
    return start + 1
