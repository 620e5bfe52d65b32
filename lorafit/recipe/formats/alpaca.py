"""Alpaca rows: an instruction, perhaps an input, and the output."""

from collections.abc import Set as AbstractSet
from typing import Any

from lorafit.recipe.formats.fields import kind_of, optional_text, text, text_value
from lorafit.recipe.formats.rows import Conversation, Fields, Message, RowFault
from lorafit.recipe.formats.turns import conversation

NEEDS = '"instruction", "output" (and perhaps "input", "system", "history")'
FIELDS = ("instruction", "input", "output", "system", "history")


def fits(columns: AbstractSet[str]) -> bool:
    """Say whether a row with these columns looks like Alpaca's."""
    return {"instruction", "output"} <= columns


def parse(fields: Fields) -> Conversation:
    """Make a conversation: the input follows the instruction after an empty line."""
    question, context = text(fields, "instruction"), optional_text(fields, "input")
    asked = f"{question}\n\n{context}" if context.strip() else question
    system = optional_text(fields, "system")
    messages = [Message("system", system)] if system.strip() else []
    for before, answer in _history(fields.get("history")):
        messages += [Message("user", before), Message("assistant", answer)]
    messages += [Message("user", asked), Message("assistant", text(fields, "output"))]
    return conversation(messages)


def _history(value: Any) -> list[tuple[str, str]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowFault(f'field "history" is {kind_of(value)}, expected a list of pairs', "E3-ROW-TYPE")
    turns = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowFault('field "history" holds something other than pairs of texts', "E3-ROW-TYPE")
        turns.append((text_value(pair[0], "a turn in history"), text_value(pair[1], "a turn in history")))
    return turns
