"""The order of the turns of a conversation: what every chat template can be asked to write."""

from collections.abc import Sequence

from lorafit.recipe.formats.fields import is_blank
from lorafit.recipe.formats.rows import Conversation, Fields, Message, RowFault

# Who may speak after whom. A tool only answers a call; what a tool answered is for the assistant.
_FOLLOWERS = {
    "start": {"system", "user"},
    "system": {"system", "user"},
    "user": {"assistant"},
    "assistant": {"user"},
    "call": {"tool"},
    "tool": {"tool", "assistant"},
}


def conversation(messages: Sequence[Message], tools: Sequence[Fields] | None = None) -> Conversation:
    """Check the order and the contents of turns; RowFault names the first that is wrong."""
    if not messages:
        raise RowFault("there are no messages", "E3-ROW-EMPTY")
    before = "start"
    for number, message in enumerate(messages, 1):
        if message.role not in _FOLLOWERS[before]:
            raise RowFault(_order_reason(before, message.role), "E3-ROW-ORDER", f"message {number}")
        _check_content(message, number)
        before = "call" if message.extras.get("tool_calls") else message.role
    if messages[-1].role != "assistant":
        raise RowFault(f"the last turn is the {messages[-1].role}'s: there is no answer to learn", "E3-ROW-ORDER")
    if all(message.train is False for message in messages if message.role == "assistant"):
        raise RowFault("every answer is marked train: false", "E3-ROW-NO-TARGET")
    return Conversation(tuple(messages), tuple(tools) if tools is not None else None)


def _order_reason(before: str, role: str) -> str:
    if before == "start":
        return f"the conversation starts with the {role}"
    after = "a tool call" if before == "call" else f"the {before}'s turn"
    return f"a turn of the {role} follows {after}"


def _check_content(message: Message, number: int) -> None:
    if message.role in ("system", "tool") or not is_blank(message.content or ""):
        return
    if message.role == "assistant" and message.extras.get("tool_calls"):
        return
    raise RowFault(f"the {message.role}'s turn is empty", "E3-ROW-EMPTY", f"message {number}")
