"""Messages in either spelling: role and content, or ShareGPT's from and value."""

import json
from collections.abc import Sequence
from typing import Any

from lorafit.recipe.formats.fields import kind_of, list_of_objects, quoted, shortened, text, text_value
from lorafit.recipe.formats.rows import Fields, Message, RowFault

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_SHAREGPT_ROLES = {
    **_ROLES,
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
_PART_TYPES = "text, reasoning, thinking, tool_call"


def parse_messages(value: Any, what: str) -> list[Message]:
    """Read a list of messages in either spelling."""
    return [_message(item) for item in list_of_objects(value, what)]


def parse_tools(fields: Fields) -> Sequence[Fields] | None:
    """Read the `tools` of a row, a list of JSON schemas or the same as JSON text; None without any."""
    tools = fields.get("tools")
    if isinstance(tools, str) and tools.strip():
        tools = _json(tools, 'field "tools"')
    return list_of_objects(tools, 'field "tools"') if tools else None


def _message(item: dict[str, Any]) -> Message:
    sharegpt = "from" in item
    speaker, content = ("from", "value") if sharegpt else ("role", "content")
    role = text(item, speaker)
    train = item.get("train")
    known = _SHAREGPT_ROLES if sharegpt else _ROLES
    if role not in known:
        raise RowFault(f'unknown role "{shortened(role)}"', "E3-ROW-ROLE", f"the roles are {quoted(known)}")
    if train is not None and not isinstance(train, bool):
        raise RowFault(f'"train" of a message is {kind_of(train)}, expected true or false', "E3-ROW-TYPE")
    if train and known[role] != "assistant":
        raise RowFault(f"the {role}'s turn is marked train: true; only answers are trained", "E3-ROW-TRAIN")
    if role == "function_call":
        return Message("assistant", None, train, {"tool_calls": _calls(text(item, content))})
    extras = {key: value for key, value in item.items() if key not in (speaker, content, "train") and value is not None}
    if isinstance(item.get(content), list):
        said, found = _parts(item[content])
        return Message(known[role], said, train, {**extras, **found})
    return Message(known[role], _content(item, content, extras), train, extras)


def _content(item: dict[str, Any], name: str, extras: dict[str, Any]) -> str | None:
    if extras.get("tool_calls"):
        list_of_objects(extras["tool_calls"], '"tool_calls"')
        if item.get(name) is None:
            return None
    if name not in item:
        raise RowFault(f'a message has no "{name}"', "E3-ROW-MISSING", f"its fields are {quoted(item)}")
    return text_value(item[name], f'"{name}" of a message')


def _parts(value: Any) -> tuple[str | None, dict[str, Any]]:
    """Read content given in parts: what it says, and (as extras) what was thought and called."""
    said: list[str] = []
    thought: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in list_of_objects(value, '"content" of a message'):
        kind = part.get("type")
        if kind == "text":
            said.append(_part(part))
        elif kind in ("reasoning", "thinking"):
            thought.append(_part(part))
        elif kind == "tool_call":
            calls += _calls(_part(part))
        else:
            raise RowFault(f"a part of a message is of type {kind!r}", "E3-ROW-PART", f"the types are {_PART_TYPES}")
    extras: dict[str, Any] = {"reasoning_content": "".join(thought)} if thought else {}
    if calls:
        extras["tool_calls"] = calls
    return "".join(said) if said or not calls else None, extras


def _part(part: dict[str, Any]) -> str:
    """Give the text of a part, which writers keep under the type's own name or under "value"."""
    names = [name for name in (part["type"], "text", "value") if name in part]
    if not names:
        raise RowFault("a part of a message has no text", "E3-ROW-MISSING", f"its fields are {quoted(part)}")
    return text_value(part[names[0]], f'"{names[0]}" of a part')


def _calls(value: str) -> list[dict[str, Any]]:
    calls = _json(value, "a function_call")
    calls = calls if isinstance(calls, list) else [calls]
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise RowFault('a function_call has no "name"', "E3-ROW-TYPE", shortened(value))
    return [{"type": "function", "function": call} for call in calls]


def _json(value: str, what: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise RowFault(f"{what} is not valid JSON", "E3-ROW-JSON", shortened(str(error))) from None
    except RecursionError:
        raise RowFault(f"{what} is nested too deeply", "E3-ROW-DEPTH") from None
