"""The same conversation as templates want it: they differ in how they take tool calls, texts and thinking."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

Messages = list[dict[str, Any]]


def spellings(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Messages, tuple[str, ...]]]:
    """Give a conversation as it is, then otherwise spelled with as few changes as can be, and their names."""
    given = [dict(message) for message in messages]
    yield given, ()
    changes = [name for name, change in _CHANGES.items() if change(given) != given]
    for count in range(1, len(changes) + 1):
        for names in combinations(changes, count):
            changed = given
            for name in names:
                changed = _CHANGES[name](changed)
            yield changed, names


def _arguments(messages: Messages) -> Messages:
    """Tool calls' arguments as JSON text instead of objects, or as objects instead of JSON text."""
    return [
        {**message, "tool_calls": [_call(call) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list)
        else message
        for message in messages
    ]


def _call(call: Any) -> Any:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "arguments" not in function:
        return call
    changed = {**function, "arguments": _other(function["arguments"])}
    return {**call, "function": changed} if "function" in call else changed


def _other(arguments: Any) -> Any:
    if isinstance(arguments, Mapping):
        return json.dumps(arguments, ensure_ascii=False)
    try:
        read = json.loads(arguments)
    except (TypeError, ValueError, RecursionError):
        return arguments
    return read if isinstance(read, dict) else arguments


def quotes_arguments(messages: Messages, text: str) -> bool:
    """Say whether a text holds arguments that were JSON text already as JSON text of that text."""
    calls = [call for message in messages for call in message.get("tool_calls") or []]
    given = [call.get("function", call).get("arguments") for call in calls if isinstance(call, Mapping)]
    texts = [arguments for arguments in given if isinstance(arguments, str) and '"' in arguments]
    return any(json.dumps(arguments, ensure_ascii=False) in text for arguments in texts)


def _empty(messages: Messages) -> Messages:
    """An absent text (beside tool calls) as an empty one."""
    return [{**message, "content": ""} if message.get("content") is None else message for message in messages]


def _parts(messages: Messages) -> Messages:
    """Texts as lists of parts, as templates of models with eyes take them."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def _apart(messages: Messages) -> Messages:
    """Thinking at the head of an answer's text apart from it."""
    return [_thinking_apart(message) if message["role"] == "assistant" else message for message in messages]


def _thinking_apart(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    found = _THOUGHT.match(content) if isinstance(content, str) else None
    if found is None or message.get("reasoning_content"):
        return message
    return {**message, "reasoning_content": found[1], "content": found[2]}


_THOUGHT = re.compile(r"\s*<think>\s*(.*?\S)\s*</think>\s*(.*)", re.DOTALL)
_CHANGES: dict[str, Callable[[Messages], Messages]] = {
    "arguments": _arguments,
    "empty": _empty,
    "parts": _parts,
    "thinking apart": _apart,
}
