"""Which of two answers was preferred, or whether one answer was liked: read and checked, not trained."""

from collections.abc import Set as AbstractSet
from typing import Any, Final

from lorafit.recipe.formats.fields import kind_of, quoted, text
from lorafit.recipe.formats.messages import parse_messages, parse_tools
from lorafit.recipe.formats.rows import Conversation, Fields, Message, PlainText, Preference, RowFault
from lorafit.recipe.formats.turns import conversation

NEEDS: Final = '"prompt" (or "conversations"), "chosen", "rejected"; or "messages" and a true or false "label"'
FIELDS: Final = ("prompt", "chosen", "rejected", "conversations", "messages", "completion", "label", "system", "tools")
Answer = Conversation | PlainText


def fits(columns: AbstractSet[str]) -> bool:
    """Say whether a row with these columns compares answers."""
    pair = {"chosen", "rejected"} <= columns
    return pair or ("label" in columns and ("messages" in columns or {"prompt", "completion"} <= columns))


def parse(fields: Fields) -> Preference:
    """Read a row; RowFault when it is not a preference."""
    if "chosen" not in fields and "rejected" not in fields and "label" in fields:
        return _judged(fields)
    chosen, rejected = _answer(fields, "chosen"), _answer(fields, "rejected")
    if chosen == rejected:
        raise RowFault('"chosen" and "rejected" are the same', "E3-ROW-SAME")
    return Preference(chosen, rejected)


def _judged(fields: Fields) -> Preference:
    """One answer, and whether it was liked (the data of KTO)."""
    liked = fields["label"]
    if not isinstance(liked, bool):
        code = "E3-ROW-NULL" if liked is None else "E3-ROW-TYPE"
        raise RowFault(f'field "label" is {kind_of(liked)}, expected true or false', code)
    if "messages" in fields:
        answer: Answer = conversation(parse_messages(fields["messages"], 'field "messages"'), parse_tools(fields))
    else:
        answer = _answer(fields, "completion")
    return Preference(answer, None) if liked else Preference(None, answer)


def _answer(fields: Fields, name: str) -> Answer:
    """Put an answer behind what was asked: a text after a text, or messages after messages."""
    answer: Any = fields.get(name)
    if isinstance(answer, str) and isinstance(fields.get("prompt"), str):
        return PlainText(text(fields, "prompt"), text(fields, name))
    if name not in fields or answer is None or isinstance(answer, bool | int | float):
        text(fields, name)  # says what is wrong
    answered = _messages(answer, f'field "{name}"')
    return conversation([*_asked(fields), *answered], parse_tools(fields))


def _asked(fields: Fields) -> list[Message]:
    present = [name for name in ("prompt", "conversations", "messages") if name in fields]
    if len(present) > 1:
        raise RowFault(f"the fields {quoted(present)} could each be the prompt", "E3-ROW-TYPE")
    if not present:
        return []  # the answers are whole conversations
    asked = _messages(fields[present[0]], f'field "{present[0]}"')
    system = [Message("system", text(fields, "system", blank=True))] if fields.get("system") else []
    return system + [message._replace(train=False) for message in asked]


def _messages(value: Any, what: str) -> list[Message]:
    """Read messages, or the one that stands alone."""
    if isinstance(value, str):
        raise RowFault(f"{what} is text where another field of the row is messages", "E3-ROW-TYPE")
    return parse_messages([value] if isinstance(value, dict) else value, what)
