"""A conversation with every text in it replaced by a name of its own: a blank."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorafit.data.template import RenderMessage

THINKING = re.compile(r"(</?think>|\[/?THINK\])")  # templates split an answer at these, so they stay
REASONING = ("reasoning_content", "thinking", "reasoning")
_TAG_AT_END = re.compile(THINKING.pattern + r"\s*\Z")
BLANK = re.compile(r"Qz\d+[trnc]\d+zQ")
_PARTS = re.compile(r"Qz(\d+)([trnc])\d+zQ")


@dataclass(frozen=True)
class Blank:
    """What a blank stands for: a text of one message."""

    message: int
    text: str
    kind: str  # t: content, r: reasoning, n: name of a called tool, c: an argument of the call
    must_appear: bool  # thinking may be left out of the history, an answer may not


@dataclass(frozen=True)
class Blanked:
    """The messages with blanks in them, and what each blank stands for."""

    messages: list[dict[str, Any]]
    blanks: dict[str, Blank]

    def key(self, tools: Sequence[Mapping[str, Any]] | None) -> str:
        """Name the shape: conversations with equal keys get the same text around their blanks."""
        return json.dumps([self.messages, tools])


def ends_in_tag(message: RenderMessage) -> bool:
    """Say whether an answer has a thinking tag for its last word, beside which its end is hard to tell."""
    content = message.get("content")
    texts = [content] if isinstance(content, str) else [part["text"] for part in content or []]
    return message["role"] == "assistant" and any(map(_TAG_AT_END.search, texts))


def blank_out(
    messages: Sequence[RenderMessage], *, roles: frozenset[str] | None = None, tags_are_text: bool = False
) -> Blanked:
    """Replace the texts of a conversation (only those of some roles, if given).

    `tags_are_text` takes an answer that ends in a thinking tag for text throughout.
    """
    blanks: dict[str, Blank] = {}
    blanked = []
    for number, message in enumerate(messages):
        taken = roles is None or message["role"] in roles
        blanked.append(_Blanker(number, message, blanks, tags_are_text).blank() if taken else dict(message))
    return Blanked(blanked, blanks)


def message_of(blank: str) -> int:
    """Give the number of the message that a blank belongs to."""
    found = _PARTS.fullmatch(blank)
    assert found is not None
    return int(found.group(1))


def kind_of_blank(blank: str) -> str:
    """Give the kind of a blank, as `Blank.kind`."""
    found = _PARTS.fullmatch(blank)
    assert found is not None
    return found.group(2)


class _Blanker:
    def __init__(self, number: int, message: RenderMessage, blanks: dict[str, Blank], tags_are_text: bool) -> None:
        self.number, self.message, self.blanks, self.tags_are_text = number, message, blanks, tags_are_text

    def blank(self) -> dict[str, Any]:
        blanked = dict(self.message)
        content = self.message.get("content")
        if isinstance(content, str):
            blanked["content"] = self._content(content)
        elif isinstance(content, list):
            blanked["content"] = [{**part, "text": self._content(part["text"])} for part in content]
        for key in REASONING:
            if isinstance(self.message.get(key), str):
                blanked[key] = self._name(self.message[key], "r", must_appear=False)
        if self.message.get("tool_calls"):
            blanked["tool_calls"] = [self._call(call) for call in self.message["tool_calls"]]
        return blanked

    def _content(self, content: str) -> str:
        whole = self.tags_are_text and _TAG_AT_END.search(content)
        if whole or self.message["role"] != "assistant":
            return self._name(content, "t")
        parts = THINKING.split(content)
        last = len(parts) - 1
        return "".join(
            part if number % 2 else self._name(part, "t", must_appear=number == last)
            for number, part in enumerate(parts)
        )

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call.get("function", call)
        if not isinstance(function, Mapping):
            return dict(call)
        named = dict(function)
        if isinstance(named.get("name"), str):
            named["name"] = self._name(named["name"], "n")
        if "arguments" in named:
            named["arguments"] = self._leaves(named["arguments"])
        return {**call, "function": named} if "function" in call else named

    def _leaves(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._name(value, "c")
        if isinstance(value, Mapping):
            return {key: self._leaves(item) for key, item in value.items()}
        return [self._leaves(item) for item in value] if isinstance(value, list) else value

    def _name(self, text: str, kind: str, *, must_appear: bool = True) -> str:
        if not text.strip():
            return text  # templates ask whether a text is empty
        name = f"Qz{self.number}{kind}{len(self.blanks)}zQ"
        self.blanks[name] = Blank(self.number, text, kind, must_appear)
        return name


def variants(text: str) -> Iterator[str]:
    """Give the ways in which templates write a text: as it is, trimmed, or inside JSON."""
    yield text
    yield from (text.rstrip(), text.lstrip(), text.strip(), text.strip("\n"), text.lstrip("\n"))
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield json.dumps(text)[1:-1]
