"""What a row of data becomes, whatever its layout, and the fault of one that becomes nothing."""

from collections.abc import Mapping
from typing import Any, NamedTuple

Fields = Mapping[str, Any]
NO_EXTRAS: Fields = {}


class RowFault(Exception):
    """A row that cannot be used: the reason (same words for the same mistake), its code, what was found."""

    def __init__(self, reason: str, code: str, found: str = "") -> None:
        super().__init__(reason)
        self.reason, self.code, self.found = reason, code, found

    def __reduce__(self) -> tuple[type["RowFault"], tuple[str, str, str]]:
        return type(self), (self.reason, self.code, self.found)  # to another process, whole


class Message(NamedTuple):
    """One turn. `train` overrides `data.train_on`; `extras` (tool calls, reasoning) reach the template."""

    role: str
    content: str | None
    train: bool | None = None
    extras: Fields = NO_EXTRAS

    def for_template(self) -> dict[str, Any]:
        """Give the message as a chat template reads it."""
        return {"role": self.role, "content": self.content, **self.extras}


class Conversation(NamedTuple):
    """Turns in an order that a chat template accepts, ending with the assistant's."""

    messages: tuple[Message, ...]
    tools: tuple[Fields, ...] | None = None


class PlainText(NamedTuple):
    """Text outside any template: the prompt is read, the completion is trained."""

    prompt: str
    completion: str


class TokenSequence(NamedTuple):
    """Tokens as they are given: each label is the id at its own place (not shifted), or -100 where none is trained."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


class Labelled(NamedTuple):
    """A text, perhaps with a second one, and the class it belongs to; the label as text ("3" for the integer 3)."""

    text: str
    pair: str | None
    label: str


class Preference(NamedTuple):
    """An answer that was liked and one that was not, each after its prompt; of unpaired rows one is None."""

    chosen: Conversation | PlainText | None
    rejected: Conversation | PlainText | None


Example = Conversation | PlainText | TokenSequence | Labelled | Preference
