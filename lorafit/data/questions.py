"""Rows as questions to a model: what it is given, what it should say, and the row it comes from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorafit.data.chat import ChatRenderer, generation_prompt_ids
from lorafit.data.faults import ReadLog
from lorafit.data.rows import read_examples
from lorafit.data.tokens import Encoder
from lorafit.errors import DataError
from lorafit.recipe.formats import Conversation, Example, Message, PlainText, RowFault
from lorafit.recipe.schema import Source, Validation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_PROBE = Conversation((Message("user", "a"), Message("assistant", "b")))


@dataclass(frozen=True)
class Question:
    """What stands before the last answer of a row, in tokens, and that answer."""

    origin: str  # file:line
    prompt_ids: list[int]
    answer: str
    fields: dict[str, Any]  # the row as it was read, for what a metric needs besides


def questions(source: Source | Validation, tokenizer: "PreTrainedTokenizerBase", log: ReadLog) -> Iterator[Question]:
    """Give the questions of a source; bad rows go to `log`.

    Raises DataError when the source cannot be read at all.
    """
    encoder = Encoder(tokenizer)
    _, examples = read_examples(source, log)
    for row, example in examples:
        try:
            yield Question(row.origin, prompt_ids(encoder, example), answer(example), row.fields)
        except RowFault as fault:
            log.bad_row(row.origin, fault)


def stop_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Give the tokens that end an answer as trained: the end of text, and what the template ends a turn with."""
    stops = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    if not tokenizer.chat_template:
        return stops
    try:
        row = ChatRenderer(tokenizer, "assistant").render(_PROBE)
        encoded = Encoder(tokenizer).encode([row])[0]
    except (RowFault, DataError):
        return stops
    if isinstance(encoded, RowFault) or not encoded.ends_with_token:
        return stops
    return stops | {int(encoded.tokens[encoded.trained][-1])}


def prompt_ids(encoder: Encoder, example: Example) -> list[int]:
    """Give the tokens after which the last answer begins, as training put them."""
    if isinstance(example, PlainText):
        return [*encoder.begin, *encoder.ids(example.prompt)]
    before = [message.for_template() for message in example.messages[:-1]]
    return generation_prompt_ids(encoder.tokenizer, before, example.tools)


def answer(example: Example) -> str:
    """Give the text of the last answer; "" for one that is only a tool call."""
    if isinstance(example, PlainText):
        return example.completion
    return example.messages[-1].content or ""
