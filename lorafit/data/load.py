"""One source, from its rows to tokens, with the account of what became of each row."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from lorafit.data.cache import Cache, Loaded, NotKept
from lorafit.data.cache_key import Key, Keys, tokenizer_hash
from lorafit.data.chat import NOTES, ChatRenderer, Rendered, TemplateFault
from lorafit.data.classes import ClassEncoder, as_words
from lorafit.data.faults import BadRow, ReadLog, grouped
from lorafit.data.lengths import Overlong
from lorafit.data.report import Counts, FileRecord, SourceReport
from lorafit.data.row_files import RowWriter
from lorafit.data.rows import SKIP_HINT, Row, preferences_fault, read_examples
from lorafit.data.tokens import Encoded, Encoder
from lorafit.errors import DataError, Fault, StorageError
from lorafit.recipe.formats import Conversation, Example, Labelled, PlainText, Preference, RowFault, TokenSequence
from lorafit.recipe.schema import DataSpec, Source, Validation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW_ROWS = 512
Drafted = Rendered | PlainText | TokenSequence | Labelled
Draft = tuple[Row, Drafted]

_REMARKS = {
    "apart": "{n} rows: a token would have joined an answer to what stands beside it, so they were "
    "tokenised apart, as at inference",
    "rewritten": "{n} rows: the template writes an earlier answer otherwise once it is history, so what stands "
    "before that answer differs from what the model is given at inference",
    "special": "{n} rows hold a special token in a text of their own; it is read as that token",
    "no stop": "{n} rows: what ends an answer is several tokens, at which generation cannot stop; use the model's "
    "own template, or one that ends with its end-of-text token",
    **{key: "{n} rows: " + text for key, text in NOTES.items()},
}


class Loader:
    """Loads the sources of a recipe and gathers everything that is wrong with any of them."""

    def __init__(self, data: DataSpec, tokenizer: "PreTrainedTokenizerBase", cache: Cache | None = None) -> None:
        self.data, self.tokenizer, self.cache = data, tokenizer, cache
        self.keys = Keys(data, tokenizer)
        self.faults: list[Fault] = []

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
        return ClassEncoder(self.tokenizer)

    @cached_property
    def tokenizer_hash(self) -> str:
        """Name the tokenizer by all that it is; takes a tenth of a second or two."""
        return tokenizer_hash(self.tokenizer)

    def load(self, source: Source | Validation) -> Loaded | None:
        """Load one source. What is wrong is added to `faults`; None when it cannot be used."""
        try:
            key = self.keys.of(source)
        except DataError as error:
            self.faults += error.faults
            return None
        if self.cache is None or key is None:
            return self._afresh(source, key)
        found = self.cache.find(key.name)
        return found or self._kept(self.cache, source, key)

    def _kept(self, cache: Cache, source: Source | Validation, key: Key) -> Loaded | None:
        """Prepare a source into the cache, unless another process just has; without it where that fails."""
        try:
            with cache.turn(key.name):
                return cache.find(key.name) or cache.keep(
                    key.name, lambda writer: self._for_cache(source, key, writer), self.tokenizer_hash
                )
        except NotKept:
            return None
        except (StorageError, OSError) as error:
            cache.trouble(error)
            return self._afresh(source, key)
        finally:
            cache.trim()

    def _for_cache(self, source: Source | Validation, key: Key, writer: RowWriter) -> SourceReport:
        report = self._read(source, key, writer)
        if report is None or self.faults:
            raise NotKept
        if self.keys.of(source) != key:
            raise StorageError("the data, or the date in its template, changed meanwhile", code="E7-CACHE")
        return report

    def _afresh(self, source: Source | Validation, key: Key | None) -> Loaded | None:
        with RowWriter() as writer:
            report = self._read(source, key, writer)
            return None if report is None else Loaded(writer.build(), report)

    def _read(self, source: Source | Validation, key: Key | None, writer: RowWriter) -> SourceReport | None:
        log = ReadLog()
        try:
            name, examples = read_examples(source, log)
            loading = _Loading(self, source, log, writer)
            loading.take(examples)
        except DataError as error:
            bad = grouped(log.bad, SKIP_HINT) if self.data.on_bad_row == "error" else []
            self.faults += [*log.faults, *bad, *error.faults]
            return None
        self.faults += loading.faults()
        return loading.report(name, key.files if key else [])


class _Loading:
    """One source on its way."""

    def __init__(self, loader: Loader, source: Source | Validation, log: ReadLog, writer: RowWriter) -> None:
        self.data, self.encoder, self.renderer = loader.data, loader.encoder, loader.renderer
        self.class_encoder = loader.class_encoder
        self.source, self.log = source, log
        self.writer = writer
        self.overlong = Overlong(self.data.max_length, self.data.on_overlong)
        self.unmaskable: list[BadRow] = []
        self.preferences = 0
        self.remarks: Counter[str] = Counter()
        self.special = re.compile("|".join(map(re.escape, _special_tokens(loader.encoder.tokenizer))) or "(?!)")

    def take(self, examples: Iterator[tuple[Row, Example]]) -> None:
        """Render, tokenise and keep rows, a window at a time."""
        while window := list(islice(examples, WINDOW_ROWS)):
            drafts = list(self._rendered(window))
            encoded = self._encoded([draft for _, draft in drafts])
            for (row, draft), result in zip(drafts, encoded, strict=True):
                if isinstance(result, RowFault):
                    self.log.bad_row(row.origin, result)
                else:
                    self._keep(row, draft, result)

    def _encoded(self, drafts: list[Drafted]) -> Iterator[Encoded | RowFault]:
        """Tokenise drafts in their order, those for a head apart from the others."""
        classed = iter(self.class_encoder.encode([draft for draft in drafts if isinstance(draft, Labelled)]))
        written = iter(self.encoder.encode([draft for draft in drafts if not isinstance(draft, Labelled)]))
        return (next(classed if isinstance(draft, Labelled) else written) for draft in drafts)

    def _rendered(self, window: Iterable[tuple[Row, Example]]) -> Iterator[Draft]:
        for row, example in window:
            self.remarks["special"] += any(map(self.special.search, _texts(example)))
            if isinstance(example, Preference):
                self.preferences += 1
                continue
            try:
                yield row, self._draft(example)
            except TemplateFault as fault:
                self.unmaskable.append(BadRow(row.origin, fault.reason, fault.code, fault.found))
            except RowFault as fault:
                self.log.bad_row(row.origin, fault)

    def _draft(self, example: Conversation | PlainText | TokenSequence | Labelled) -> Drafted:
        """Give what is tokenised; RowFault when the template does not take the chat."""
        if isinstance(example, Labelled) and self.data.classification == "words":
            return self._draft(as_words(example, self.encoder.tokenizer))
        return self.renderer.render(example) if isinstance(example, Conversation) else example

    def _keep(self, row: Row, draft: Drafted, encoded: Encoded) -> None:
        kept, unfinished = self.overlong.fit(encoded, row.origin)
        if kept is None:
            return
        self.writer.add(kept.tokens, kept.trained, row.file, row.line, unfinished=unfinished, label=kept.label)
        self.remarks["apart"] += encoded.apart
        self.remarks["no stop"] += not encoded.ends_with_token and self.data.train_on != "all"
        self.remarks["rewritten"] += isinstance(draft, Rendered) and draft.history_rewritten
        self.remarks.update(draft.notes if isinstance(draft, Rendered) else ())

    @property
    def read(self) -> int:
        """Rows met, of whatever fate."""
        return self.writer.rows + self.overlong.dropped + self.log.bad_count + len(self.unmaskable) + self.preferences

    def faults(self) -> list[Fault]:
        """Give what must stop the run."""
        found = [*self.log.faults, *grouped(self.unmaskable, "use another template (data.chat_template)")]
        if self.data.on_bad_row == "error":
            found += grouped(self.log.bad, SKIP_HINT)
        found += self.overlong.fault(str(self.source.path), self.read)
        if self.preferences:
            found.append(preferences_fault(self.preferences, str(self.source.path)))
        if not found and not self.writer.rows:
            what = f"none of {self.read:,} rows is left" if self.read else "holds no rows"
            found.append(Fault(what, str(self.source.path), code="E3-NO-ROWS"))
        return found

    def report(self, name: str, files: list[FileRecord]) -> SourceReport:
        """Give the account of the source."""
        return SourceReport(
            path=str(self.source.path),
            use="train" if isinstance(self.source, Source) else "validation",
            format=name,
            detected=self.source.format == "auto",
            counts=Counts(
                read=self.read,
                kept=self.writer.rows,
                dropped=self.overlong.dropped,
                truncated=self.overlong.truncated,
                bad=self.log.bad_count,
            ),
            files=files,
            bad_rows=sorted(self.log.bad, key=lambda row: row.place),
            tokens=self.writer.tokens,
            target_tokens=self.writer.targets,
            longest=self.overlong.longest,
            notes=[*self.log.notes, *self._remarks()],
        )

    def _remarks(self) -> list[str]:
        return [text.format(n=f"{self.remarks[key]:,}") for key, text in _REMARKS.items() if self.remarks[key]]


def _special_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted(filter(None, {*tokenizer.all_special_tokens, *added}), key=len, reverse=True)


def _texts(example: Example) -> list[str]:
    if isinstance(example, Conversation):
        return [message.content for message in example.messages if message.content]
    if isinstance(example, Labelled):
        return [example.text, example.pair or ""]
    return [example.prompt, example.completion] if isinstance(example, PlainText) else []
