"""What is wrong with the text of a recipe, in the words of someone who sees the recipe and not the parser."""

import re
import unicodedata

import yaml

from lorafit.recipe.problems import Located, Place, Problem, printable

MESSAGE_CHARACTERS = 120

# a part of PyYAML's message: (what it means, how to mend it); the first that fits is taken
_PLAINER = {
    "mapping values are not allowed here": (
        'a second ": " in one value, or a line that is indented too far',
        "put the value in quotes, or line the key up with its neighbours",
    ),
    "found character '\\t' that cannot start any token": ("a tab", "indent with spaces"),
    "that cannot start any token": ("a value cannot start with this character", "put the value in quotes"),
    "but found '<block mapping start>'": ("the indentation fits no line above", "line the keys up"),
    "but found '-'": ("a list item where a key is expected", "indent the list under its key"),
    "but found '<scalar>'": ("text after the end of a value", "put the whole value in quotes"),
    "expected ',' or": ("a comma or a closing bracket is missing", ""),
}
# the same, where the start of the construct tells more than the place at which the parser gave up
_PLAINER_AT_START = {
    "could not find expected ':'": ('a line that is not "key: value"', "put a space after the colon"),
    "but got '<stream end>'": ("a bracket that is never closed", ""),
    "but found '<stream end>'": ("a bracket that is never closed", ""),
    "found unexpected end of stream": ("a quote that is never closed", ""),
}


def syntax_error(error: yaml.MarkedYAMLError, text: str, source: str) -> Located:
    """Say what the parser stumbled over; a character that only looks like a space explains most of it."""
    assert error.problem_mark is not None, "the scanner and the parser always say where"
    mark, start = error.problem_mark, error.context_mark or error.problem_mark
    for near in (start, mark):
        if (offset := _hidden_in_line(text, near.index)) is not None:
            what = f"{character_name(text[offset])} looks like a space"
            return located(place_of(text, offset, source), what, "type a plain space")
    message = str(error.problem)
    for words, (what, fix) in {**_PLAINER_AT_START, **_PLAINER}.items():
        if words in message:
            return located(_place(start if words in _PLAINER_AT_START else mark, source), what, fix)
    return located(_place(mark, source), printable(message, MESSAGE_CHARACTERS))


def located(place: Place, what: str, fix: str = "", code: str = "E2-YAML") -> Located:
    """Give a problem of the text itself, which has a place but no key."""
    return Located(place, Problem((), what, fix, code))


def _place(mark: yaml.Mark, source: str) -> Place:
    return Place(mark.line + 1, mark.column + 1, source)


def place_of(text: str, offset: int, source: str) -> Place:
    """Give the line and column of an offset."""
    before = re.split(r"\r\n?|\n", text[:offset])
    return Place(len(before), len(before[-1]) + 1, source)


def hidden_character(text: str) -> str | None:
    """Give the first character that cannot be seen, or looks like a space and is none."""
    return next((character for character in text if not character.isprintable()), None)


def character_name(character: str) -> str:
    """Name a character that cannot be shown."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '(a control character)')}"


def _hidden_in_line(text: str, offset: int) -> int | None:
    """Find a hidden character in the line around the offset; a tab has a sentence of its own."""
    start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    line = re.split(r"[\r\n]", text[start:], maxsplit=1)[0].replace("\t", " ")
    hidden = hidden_character(line)
    return start + line.index(hidden) if hidden else None
