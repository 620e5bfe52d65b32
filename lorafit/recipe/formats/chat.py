"""Conversations: `messages` of role and content, or ShareGPT's `conversations` of from and value."""

from collections.abc import Set as AbstractSet

from lorafit.recipe.formats.fields import quoted, text
from lorafit.recipe.formats.messages import parse_messages, parse_tools
from lorafit.recipe.formats.rows import Conversation, Fields, Message, RowFault
from lorafit.recipe.formats.turns import conversation

NEEDS = '"messages" (role, content) or "conversations" (from, value)'
FIELDS = ("messages", "conversations", "system", "tools")
COLUMNS = ("messages", "conversations")


def fits(columns: AbstractSet[str]) -> bool:
    """Say whether a row with these columns looks like a conversation."""
    return any(column in columns for column in COLUMNS)


def parse(fields: Fields) -> Conversation:
    """Read a conversation; RowFault when it is not one."""
    present = [column for column in COLUMNS if column in fields]
    if len(present) != 1:
        reason = "has both fields" if present else "has neither field"
        raise RowFault(f"{reason} {quoted(COLUMNS)}", "E3-ROW-MISSING", f"the fields are {quoted(fields)}")
    messages = parse_messages(fields[present[0]], f'field "{present[0]}"')
    return conversation(_system(fields) + messages, parse_tools(fields))


def _system(fields: Fields) -> list[Message]:
    if fields.get("system") in (None, ""):
        return []
    return [Message("system", text(fields, "system", blank=True))]
