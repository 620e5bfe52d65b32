"""Text to tokens: prompt and answer apart where a token would join them, and every row proved."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lorafit.data.chat import Rendered
from lorafit.errors import ModelError
from lorafit.recipe.formats import PlainText, RowFault, TokenSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEAD = "\n"  # stands for what comes before, since some tokenizers treat the start of a text differently
_SPACES = re.compile(r"[\s\u2581]+")  # the second is how SentencePiece writes a space
Tokens = NDArray[np.int32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Encoded:
    """A row in tokens, and which of them are trained."""

    tokens: Tokens
    trained: Flags
    apart: bool = False  # a token would have joined the two sides of a border of what is trained
    ends_with_token: bool = True  # the last that is trained is a token of its own, where generation can stop
    label: str | None = None  # the class of the row under a head, where no token is trained


class Encoder:
    """Tokenises rows in windows, in Rust, and checks each against its text."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        require_fast(tokenizer)
        self.tokenizer = tokenizer
        self.added_ids = frozenset(tokenizer.added_tokens_decoder)
        self.vocabulary = len(tokenizer)
        self.begin = _begin_ids(tokenizer)
        self._tails: dict[str, list[int]] = {}
        self._lead = self._find_lead()
        self._same = SameText(tokenizer)

    def encode(self, rows: Sequence[Rendered | PlainText | TokenSequence]) -> list[Encoded | RowFault]:
        """Tokenise a window of rows; a row that cannot be proved gives its fault."""
        written = iter(self._encode_texts([row for row in rows if not isinstance(row, TokenSequence)]))
        return [self._given(row) if isinstance(row, TokenSequence) else next(written) for row in rows]

    def _given(self, row: TokenSequence) -> Encoded | RowFault:
        """Take tokens made elsewhere as they are, where the tokenizer has them."""
        if max(row.input_ids) >= self.vocabulary:
            found = f"{max(row.input_ids)} of {self.vocabulary}"
            return RowFault("holds an id that the tokenizer does not have", "E3-ROW-VOCABULARY", found)
        tokens = np.array(row.input_ids, dtype=np.int32)
        trained = np.array(row.labels, dtype=np.int32) == tokens
        stop = int(tokens[np.flatnonzero(trained)[-1]]) in self.added_ids
        return Encoded(tokens, trained, ends_with_token=stop)

    def _encode_texts(self, rows: Sequence[Rendered | PlainText]) -> list[Encoded | RowFault]:
        if not rows:
            return []
        drafts = [row if isinstance(row, Rendered) else _plain(row) for row in rows]
        batch = self._batch([draft.text for draft in drafts])
        encoded = zip(drafts, batch.encodings, batch["input_ids"], strict=True)
        placed = [self._place(draft, encoding, ids) for draft, encoding, ids in encoded]
        faults = self._prove(drafts, placed)
        results: list[Encoded | RowFault] = []
        for row, draft, segments, fault in zip(rows, drafts, placed, faults, strict=True):
            plain = isinstance(row, PlainText)
            results.append(fault or self._finish(draft, segments, plain=plain))
        return results

    def ids(self, text: str) -> list[int]:
        """Tokenise one text, without adding special tokens."""
        return list(self._batch([text])["input_ids"][0])

    def _batch(self, texts: list[str]) -> Any:
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )

    def _place(self, draft: Rendered, encoding: Any, ids: list[int]) -> "_Segments":
        """Split the tokens of a row where its trained spans begin and end."""
        cuts = sorted({0, *(place for span in draft.trained for place in span), draft.prompt_end})
        ends = {end for _, end in draft.trained}
        places = [_token_at(draft.text, encoding, ids, cut, closing=cut in ends) for cut in cuts]
        indices = [place for place in places if place is not None]
        if len(indices) < len(places):
            return self._apart(draft, cuts)
        if not self._prompt_alone(draft, encoding, ids[: indices[cuts.index(draft.prompt_end)]]):
            return self._apart(draft, cuts)
        starts = [encoding.token_to_chars(i)[0] if i < len(ids) else len(draft.text) for i in indices]
        starts[0] = 0
        return _Segments([*indices, len(ids)], [*starts, len(draft.text)], cuts, ids, apart=False)

    def _prompt_alone(self, draft: Rendered, encoding: Any, ids: list[int]) -> bool:
        """Say whether the tokens before the answer are those of the prompt alone, as at inference.

        Added tokens split a text before anything else happens to it, so what follows the last of them is
        all that could differ.
        """
        last = next((n for n in range(len(ids) - 1, -1, -1) if ids[n] in self.added_ids), 0)
        start = encoding.token_to_chars(last)[0] if last else 0
        tail = draft.text[start : draft.prompt_end]
        if tail not in self._tails:
            if len(self._tails) > 10_000:
                self._tails.clear()
            self._tails[tail] = self.ids(tail) if tail else []
        return self._tails[tail] == ids[last:]

    def _apart(self, draft: Rendered, cuts: Sequence[int]) -> "_Segments":
        """Tokenise a row piece by piece, each as it continues what stands before it."""
        ids: list[int] = []
        indices = []
        for start, end in pairwise([*cuts, len(draft.text)]):
            indices.append(len(ids))
            piece = draft.text[start:end]
            ids += self._continuation(piece) if start else self.ids(piece)
        return _Segments([*indices, len(ids)], [*cuts, len(draft.text)], list(cuts), ids, apart=True)

    def _continuation(self, text: str) -> list[int]:
        """Tokenise text as it stands after other text: without the space that some tokenizers put first."""
        if not text or not self._lead:
            return self.ids(text) if text else []
        led = self._batch([self._lead + text]).encodings[0]
        index = led.char_to_token(len(self._lead))
        aligned = index is not None and led.token_to_chars(index)[0] == len(self._lead)
        return list(led.ids[index:]) if aligned else self.ids(text)

    def _find_lead(self) -> str:
        """Find a character to put before a continuation, "" where the tokenizer adds no space of its own."""
        alone = self.ids("a")
        return "" if self.ids(_LEAD + "a") == self.ids(_LEAD) + alone else _LEAD

    def _prove(self, drafts: Sequence[Rendered], placed: Sequence["_Segments"]) -> list[RowFault | None]:
        """Decode every segment and compare it with its text, byte for byte."""
        lead = self.ids(_LEAD)
        pieces = [
            lead + segments.ids[a:b] if start else segments.ids[a:b]
            for segments in placed
            for start, (a, b) in zip(segments.starts, pairwise(segments.indices), strict=False)
        ]
        decoded = iter(self.tokenizer.backend_tokenizer.decode_batch(pieces, skip_special_tokens=False))
        return [
            self._same.fault(draft.text, segments.starts, [next(decoded) for _ in segments.starts[1:]])
            for draft, segments in zip(drafts, placed, strict=True)
        ]

    def _finish(self, draft: Rendered, segments: "_Segments", *, plain: bool) -> Encoded | RowFault:
        ids, offset = segments.ids, 0
        if plain:
            begin = [] if ids[:1] == self.begin else self.begin  # the text may bring its own
            ids, offset = [*begin, *ids, *self._end(draft.text)], len(begin)
        trained = np.zeros(len(ids), dtype=np.bool_)
        for start, end in draft.trained:
            first, last = segments.token_of(start), segments.token_of(end, default=len(segments.ids))
            trained[first + offset : last + offset] = True
        if plain:
            trained[offset + len(segments.ids) :] = True
        if not trained[1:].any():
            return RowFault("no token of the row is trained", "E3-ROW-NO-TARGET")
        if not plain and len(ids) > 1 and ids[0] == ids[1] == self.tokenizer.bos_token_id:
            return RowFault("the row begins with two beginning-of-text tokens", "E3-ROW-BOS")
        stop = ids[int(np.flatnonzero(trained)[-1])] in self.added_ids
        return Encoded(np.array(ids, dtype=np.int32), trained, segments.apart, stop)

    def _end(self, text: str) -> list[int]:
        """Give the end-of-text token, unless the text brings its own."""
        eos, eos_id = self.tokenizer.eos_token, self.tokenizer.eos_token_id
        if eos_id is None:
            raise ModelError(
                "the tokenizer has no end-of-text token, so no row of plain text could end",
                fix="set eos_token in its tokenizer_config.json",
                code="E4-NO-EOS",
            )
        return [] if text.endswith(str(eos)) else [int(eos_id)]


def require_fast(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise ModelError for a tokenizer whose tokens cannot be set against their text."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} has no fast form, so its tokens have no places",
            fix="use a model with a tokenizer.json",
            code="E4-TOKENIZER",
        )


def _token_at(text: str, encoding: Any, ids: list[int], place: int, *, closing: bool) -> int | None:
    """Give the index of the token that starts at a character, None where a token straddles it.

    A token that ends a turn may take the white space after it along: that is the token which ends it.
    """
    if place in (0, len(text)):
        return 0 if place == 0 else len(ids)
    index: int | None = encoding.char_to_token(place)
    if index is None:
        return None
    start, end = encoding.token_to_chars(index)
    if start == place:
        return index
    return index + 1 if closing and text[place:end].isspace() else None


@dataclass(frozen=True)
class _Segments:
    """The tokens of a row cut at the borders of its spans: token indices and characters of each cut."""

    indices: list[int]  # one more than segments
    starts: list[int]
    cuts: list[int]
    ids: list[int]
    apart: bool

    def token_of(self, cut: int, default: int = 0) -> int:
        return self.indices[self.cuts.index(cut)] if cut in self.cuts else default


class SameText:
    """Compares decoded tokens with their text, knowing what tokenizers do to spaces and accents."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.normalizer = tokenizer.backend_tokenizer.normalizer
        added = {str(token) for token in tokenizer.added_tokens_decoder.values()} - {""}
        self.added = tuple(sorted(added, key=len, reverse=True))
        self._after_added = re.compile(f"({'|'.join(map(re.escape, self.added)) or '(?!)'}) ")

    def fault(self, text: str, starts: Sequence[int], decoded: Sequence[str]) -> RowFault | None:
        """Give the fault of the first segment whose tokens do not say its text."""
        for (start, end), led in zip(pairwise(starts), decoded, strict=True):
            said = led.removeprefix(_LEAD) if start else led
            if text[start:end] != said and not self._alike(text, start, end, said):
                found = _first_loss(text[start:end], said)
                return RowFault("the tokenizer cannot write the row's text", "E3-ROW-TOKENS", found)
        return None

    def but_for_spaces(self, text: str, said: str) -> bool:
        """Say whether a whole text is said but for its white space, which tokenizers of words do not keep."""
        written = [text] if self.normalizer is None else [text, self.normalizer.normalize_str(text)]
        return _SPACES.sub("", said) in (_SPACES.sub("", piece) for piece in written)

    def _alike(self, text: str, start: int, end: int, said: str) -> bool:
        """Allow what a tokenizer declares: its normaliser, and a space of its own where a text starts.

        A text starts at the beginning and after each added token; some tokenizers put their space there only
        where there is none yet, others always.
        """
        starts_here = start == 0 or text.endswith(self.added, 0, start)
        written = [text[start:end]]
        if self.normalizer is not None:
            written.append(self.normalizer.normalize_str(written[0]))
        bare = self._without_space(said, starts_here)
        return any(bare in (piece, self._without_space(piece, starts_here)) for piece in written)

    def _without_space(self, text: str, starts_here: bool) -> str:
        text = self._after_added.sub(r"\1", text)
        return text.removeprefix(" ") if starts_here else text


def _first_loss(text: str, decoded: str) -> str:
    place = next((n for n, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), len(decoded))
    return f"{text[place : place + 20]!r} becomes {decoded[place : place + 20]!r}"


def _begin_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Give the tokens that the tokenizer puts before a text of its own accord."""
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and whole[:1] == [bos] and alone[:1] != [bos] else []


def _plain(row: PlainText) -> Rendered:
    text = row.prompt + row.completion
    return Rendered(text, [(len(row.prompt), len(text))], len(row.prompt))
