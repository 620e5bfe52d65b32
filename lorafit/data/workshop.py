"""From rows to tokens, a window at a time: rendered, tokenised and proved, each row by itself."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lorafit.data.chat import NOTES, ChatRenderer, Rendered
from lorafit.data.classes import ClassEncoder, as_words
from lorafit.data.tokens import Encoded, Encoder
from lorafit.recipe.formats import Conversation, Example, Labelled, PlainText, Preference, RowFault, TokenSequence
from lorafit.recipe.schema import DataSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Drafted = Rendered | PlainText | TokenSequence | Labelled

REMARKS = {
    "apart": "{n} rows: a token would have joined an answer to what stands beside it, so they were "
    "tokenised apart, as at inference",
    "rewritten": "{n} rows: the template writes an earlier answer otherwise once it is history, so what stands "
    "before that answer differs from what the model is given at inference",
    "special": "{n} rows hold a special token in a text of their own; it is read as that token",
    "no stop": "{n} rows: what ends an answer is several tokens, at which generation cannot stop; use the model's "
    "own template, or one that ends with its end-of-text token",
    **{key: "{n} rows: " + text for key, text in NOTES.items()},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: its tokens, or its fault, or neither for a preference; and keys of REMARKS."""

    result: Encoded | RowFault | None
    remarks: tuple[str, ...] = ()  # of a row that is kept
    special: bool = False  # a text of the row holds a special token


class Workshop:
    """Turns examples into tokens. What becomes of a row depends on that row alone."""

    def __init__(self, data: DataSpec, tokenizer: "PreTrainedTokenizerBase", *, as_stored: bool = False) -> None:
        self.data, self.tokenizer, self.as_stored = data, tokenizer, as_stored
        self.special = re.compile("|".join(map(re.escape, _special_tokens(tokenizer))) or "(?!)")

    @cached_property
    def encoder(self) -> Encoder:
        """What turns text into tokens."""
        return Encoder(self.tokenizer)

    @cached_property
    def renderer(self) -> ChatRenderer:
        """What turns conversations into text."""
        return ChatRenderer(self.tokenizer, self.data.train_on)

    @cached_property
    def class_encoder(self) -> ClassEncoder:
        """What turns texts with a class into tokens."""
        return ClassEncoder(self.tokenizer, as_stored=self.as_stored)

    def outcomes(self, window: Sequence[Example]) -> list[Outcome]:
        """Give the outcome of each example of a window."""
        drafts = [self._drafted(example) for example in window]
        encoded = self._encoded([draft for draft in drafts if draft is not None and not isinstance(draft, RowFault)])
        return [
            self._outcome(example, draft, draft if isinstance(draft, RowFault) or draft is None else next(encoded))
            for example, draft in zip(window, drafts, strict=True)
        ]

    def _outcome(
        self, example: Example, draft: Drafted | RowFault | None, result: Encoded | RowFault | None
    ) -> Outcome:
        remarks = tuple(self._remarks(draft, result)) if isinstance(result, Encoded) else ()
        return Outcome(result, remarks, any(map(self.special.search, _texts(example))))

    def _drafted(self, example: Example) -> Drafted | RowFault | None:
        try:
            return None if isinstance(example, Preference) else self._draft(example)
        except RowFault as fault:
            return fault

    def _draft(self, example: Conversation | PlainText | TokenSequence | Labelled) -> Drafted:
        """Give what is tokenised; RowFault when the template does not take the chat."""
        if isinstance(example, Labelled) and self.data.classification == "words":
            return self._draft(as_words(example, self.tokenizer))
        return self.renderer.render(example) if isinstance(example, Conversation) else example

    def _encoded(self, drafts: list[Drafted]) -> Iterator[Encoded | RowFault]:
        """Tokenise drafts in their order, those for a head apart from the others."""
        classed = iter(self.class_encoder.encode([draft for draft in drafts if isinstance(draft, Labelled)]))
        written = iter(self.encoder.encode([draft for draft in drafts if not isinstance(draft, Labelled)]))
        return (next(classed if isinstance(draft, Labelled) else written) for draft in drafts)

    def _remarks(self, draft: Drafted | RowFault | None, encoded: Encoded) -> Iterable[str]:
        if encoded.apart:
            yield "apart"
        if not encoded.ends_with_token and self.data.train_on != "all":
            yield "no stop"
        if isinstance(draft, Rendered):
            yield from ["rewritten"] * draft.history_rewritten
            yield from draft.notes


def _special_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted(filter(None, {*tokenizer.all_special_tokens, *added}), key=len, reverse=True)


def _texts(example: Example) -> list[str]:
    if isinstance(example, Conversation):
        return [message.content for message in example.messages if message.content]
    if isinstance(example, Labelled):
        return [example.text, example.pair or ""]
    return [example.prompt, example.completion] if isinstance(example, PlainText) else []
