"""Rows with a class: their tokens under a head, the numbers of their classes, and the words they are otherwise."""

from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lorafit.data.token_rows import TokenRows, in_order, relabelled
from lorafit.data.tokens import Encoded, SameText, require_fast
from lorafit.errors import DataError, Fault
from lorafit.recipe.formats import Conversation, Labelled, Message, PlainText, RowFault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lorafit.data.cache import Loaded

SEPARATOR = "\n"  # between a text and its pair, and between a plain text and its label in words
SHOWN = 5


def joined_text(row: Labelled) -> str:
    """Give the text of a row, and its pair on a line of its own after it."""
    return row.text if row.pair is None else f"{row.text}{SEPARATOR}{row.pair}"


def as_words(row: Labelled, tokenizer: "PreTrainedTokenizerBase") -> Conversation | PlainText:
    """Give the label as the answer to the text: a turn of a chat where the tokenizer has a template."""
    text = joined_text(row)
    if tokenizer.chat_template:
        return Conversation((Message("user", text), Message("assistant", row.label)))
    return PlainText(f"{text}{SEPARATOR}", row.label)


def padding_id(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Give the special token to pad with; not the end of a text where there is another.

    A classifier of transformers reads its class at the last token that is not padding, so an end of text that
    pads as well would never be read.
    """
    end = tokenizer.eos_token_id
    named = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids)
    others = [token for token in named if token is not None and token != end]
    return int(others[0]) if others else None if end is None else int(end)


def end_documents(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Have the tokenizer put an end of text after each text by itself, and pad with another token; on the right.

    It is saved so, and whoever classifies with it later gives the model the tokens it was trained on. Without a
    special token to pad with, texts stay as the tokenizer has them.
    """
    padding, end = padding_id(tokenizer), tokenizer.eos_token_id
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"  # the second is what is saved
    if padding is None:
        return
    if tokenizer.pad_token_id != padding:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    if end is not None and end != padding and tokenizer("a")["input_ids"][-1] != end:
        _append(tokenizer, str(tokenizer.eos_token), int(end))


def _append(tokenizer: "PreTrainedTokenizerBase", word: str, end: int) -> None:
    from tokenizers.processors import TemplateProcessing

    alone, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    begin = whole[: len(whole) - len(alone)]
    special = [(str(tokenizer.convert_ids_to_tokens(token)), int(token)) for token in begin]
    lead = [name for name, _ in special]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*lead, "$A", word], pair=[*lead, "$A", "$B:1", f"{word}:1"], special_tokens=[*special, (word, end)]
    )
    for name in ("add_bos_token", "add_eos_token"):  # where these are saved, loading makes the template from them
        if name in tokenizer.init_kwargs:
            tokenizer.init_kwargs[name] = name == "add_eos_token" or bool(begin)


class ClassEncoder:
    """Tokenises rows for a head: the text as the tokenizer itself gives it, no token trained, and the class.

    With `as_stored` a text ends as the tokenizer has it: a classifier that is there already was trained so.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, as_stored: bool = False) -> None:
        self._given, self._as_stored = tokenizer, as_stored

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """A copy that ends its texts: the one given names the data by what it is, and stays as it is."""
        require_fast(self._given)
        if self._as_stored:
            return self._given
        copied = deepcopy(self._given)
        end_documents(copied)
        return copied

    @cached_property
    def _same(self) -> SameText:
        return SameText(self.tokenizer)

    def encode(self, rows: Sequence[Labelled]) -> list[Encoded | RowFault]:
        """Tokenise a window of rows; a row whose text the tokenizer cannot write gives its fault."""
        if not rows:
            return []
        texts = [joined_text(row) for row in rows]
        found = self.tokenizer(texts, padding=False, truncation=False, return_attention_mask=False, verbose=False)
        own = [_own(encoding) for encoding in found.encodings]
        said = self.tokenizer.backend_tokenizer.decode_batch(own, skip_special_tokens=False)
        faults = map(self._fault, texts, own, said)
        return [fault or _encoded(row, ids) for row, ids, fault in zip(rows, found["input_ids"], faults, strict=True)]

    def _fault(self, text: str, own: Sequence[int], said: str) -> RowFault | None:
        """Give the fault of a text that its tokens do not say; white space between words need not be in them."""
        if not own:
            return RowFault("the tokenizer makes no token of the row's text", "E3-ROW-TOKENS")
        fault = self._same.fault(text, (0, len(text)), (said,))
        return None if fault is None or self._same.but_for_spaces(text, said) else fault


def _own(encoding: Any) -> list[int]:
    """Give the tokens of the text itself, without those that the tokenizer puts around it."""
    return [token for token, around in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if not around]


def _encoded(row: Labelled, ids: Sequence[int]) -> Encoded:
    tokens = np.array(ids, dtype=np.int32)
    return Encoded(tokens, np.zeros(len(tokens), dtype=np.bool_), label=row.label)


def check_classes(train: "Sequence[Loaded]", validation: "Loaded | None") -> None:
    """Refuse rows that no head can be trained on: only some with a class, all of one, or held out and unknown."""
    named = [source for source in train if source.rows.labels]
    labels = {label for source in named for label in source.rows.labels}
    faults = [_mixed(source) for source in train if labels and not source.rows.labels]
    if len(labels) == 1:
        what = f"every row is of the class {min(labels)!r}, so there is nothing to tell apart"
        faults.append(Fault(what, named[0].report.path, "add rows of another class", "E3-CLASSES"))
    if validation is not None and bool(validation.rows.labels) != bool(labels):
        faults.append(_mixed(validation))
    if faults:
        raise DataError(faults)
    if validation is not None:
        known_classes(validation.rows, in_order(labels))


def _mixed(source: "Loaded") -> Fault:
    here, there = ("have a class", "have none") if source.rows.labels else ("have no class", "have one")
    what = f"the rows {here}, and others of this recipe {there}"
    fix = "train a head on rows with classes only, or set data.classification: words"
    return Fault(what, source.report.path, fix, "E3-CLASSES")


def known_classes(rows: TokenRows, labels: tuple[str, ...]) -> TokenRows:
    """Number the classes of rows as they stand in `labels`. DataError names those that do not, with their rows."""
    unknown = [number for number, name in enumerate(rows.labels) if name not in labels]
    if unknown:
        raise DataError([_unknown(rows, number) for number in unknown])
    return relabelled(rows, labels)


def _unknown(rows: TokenRows, number: int) -> Fault:
    assert rows.classes is not None
    found = np.flatnonzero(rows.classes == number).tolist()
    places = [rows.place(row) for row in found[:SHOWN]]
    what = f"{len(found):,} rows are of the class {rows.labels[number]!r}, which is not trained ({', '.join(places)})"
    return Fault(what, places[0], "add such rows to data.train, or take these out", "E3-CLASS-UNKNOWN")
