"""What a row of data becomes: a conversation or plain text, and the fault of one that becomes neither."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Fields = Mapping[str, Any]


class RowFault(Exception):
    """A row that cannot be used: the reason (same words for the same mistake), its code, what was found."""

    def __init__(self, reason: str, code: str, found: str = "") -> None:
        super().__init__(reason)
        self.reason, self.code, self.found = reason, code, found


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `train` overrides `data.train_on`; `extras` (tool calls, reasoning) reach the template."""

    role: str
    content: str | None
    train: bool | None = None
    extras: Fields = field(default_factory=dict)

    def for_template(self) -> dict[str, Any]:
        """Give the message as a chat template reads it."""
        return {"role": self.role, "content": self.content, **self.extras}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in an order that a chat template accepts, ending with the assistant's."""

    messages: tuple[Message, ...]
    tools: tuple[Fields, ...] | None = None


@dataclass(frozen=True, slots=True)
class PlainText:
    """Text outside any template: the prompt is read, the completion is trained."""

    prompt: str
    completion: str


Example = Conversation | PlainText
