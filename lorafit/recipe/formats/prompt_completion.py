"""A prompt and its completion: two texts outside any template, or two lists of messages."""

from collections.abc import Set as AbstractSet

from lorafit.recipe.formats.fields import text
from lorafit.recipe.formats.messages import parse_messages, parse_tools
from lorafit.recipe.formats.rows import Conversation, Fields, PlainText, RowFault
from lorafit.recipe.formats.turns import conversation

NEEDS = '"prompt", "completion"'
FIELDS = ("prompt", "completion", "tools")


def fits(columns: AbstractSet[str]) -> bool:
    """Say whether a row with these columns is a prompt with its completion."""
    return {"prompt", "completion"} <= columns


def parse(fields: Fields) -> Conversation | PlainText:
    """Read two texts as plain text, two lists as one conversation of which the completion is trained."""
    lists = [isinstance(fields.get(name), list) for name in ("prompt", "completion")]
    if not any(lists):
        return PlainText(text(fields, "prompt"), text(fields, "completion"))
    if not all(lists):
        raise RowFault('"prompt" and "completion" must both be texts or both be messages', "E3-ROW-TYPE")
    asked = parse_messages(fields["prompt"], 'field "prompt"')
    answered = parse_messages(fields["completion"], 'field "completion"')
    context = [message._replace(train=False) for message in asked]
    return conversation(context + answered, parse_tools(fields))
