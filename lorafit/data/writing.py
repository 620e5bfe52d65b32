"""What a template must not write, and the refusal of one whose text cannot be told apart."""

import re

_ESCAPED = re.compile(r"&(?:#34|#39|quot|amp|lt|gt);")
_PRINTED_PARTS = ("{'type': 'text'", '{"type": "text"')
_SURROGATE = re.compile("[\ud800-\udfff]")


class Unmaskable(Exception):
    """The template's text cannot be told apart into what is given and what the model writes."""


class TextLost(Unmaskable):
    """The template leaves out a text of the conversation."""


def check_writing(written: str, given: str) -> None:
    """Raise Unmaskable for what a template writes of its own that no model was taught and no file can hold."""
    found = _ESCAPED.search(written)
    if found and found.group() not in given:  # some write the quotes of a tool call as `&#34;`
        raise Unmaskable(f"it writes tool calls with {found.group()!r} for a character; give JSON text")
    if "None" in written and "None" not in given:
        raise Unmaskable("it writes 'None' where there is no text")
    if _SURROGATE.search(written):
        raise Unmaskable("it writes half of a surrogate pair, which no text can hold")


def check_parts(written: str, source: str) -> None:
    """Raise Unmaskable where a template prints a list of parts that it was to take apart."""
    if any(name in written and name not in source for name in _PRINTED_PARTS):
        raise Unmaskable("it prints a list of parts as it stands in the program")
