"""One source, from its rows to tokens, with the account of what became of each row."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from lorafit.data.cache import Cache, Loaded, NotKept
from lorafit.data.cache_key import Key, Keys, tokenizer_hash
from lorafit.data.chat import TemplateFault
from lorafit.data.faults import BadRow, ReadLog, grouped
from lorafit.data.lengths import Overlong
from lorafit.data.report import Counts, FileRecord, SourceReport
from lorafit.data.row_files import RowWriter
from lorafit.data.rows import NO_ROWS_HINT, READ_HINT, SKIP_HINT, Row, preferences_fault, read_examples
from lorafit.data.tokens import Encoded
from lorafit.data.workers import worked
from lorafit.data.workshop import REMARKS, Outcome, Workshop
from lorafit.errors import DataError, Fault, StorageError
from lorafit.recipe.formats import Example, RowFault
from lorafit.recipe.schema import DataSpec, Source, Validation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNMASKABLE_HINT = "set what the template reads (data.chat_template_kwargs), or use another (data.chat_template)"


class Loader:
    """Loads the sources of a recipe and gathers everything that is wrong with any of them.

    With `as_stored` rows for a head end as the tokenizer has them, which no cache holds.
    """

    def __init__(
        self,
        data: DataSpec,
        tokenizer: "PreTrainedTokenizerBase",
        cache: Cache | None = None,
        *,
        as_stored: bool = False,
    ) -> None:
        self.data, self.tokenizer, self.cache = data, tokenizer, None if as_stored else cache
        self.as_stored = as_stored
        self.keys = Keys(data, tokenizer)
        self.faults: list[Fault] = []

    @cached_property
    def workshop(self) -> Workshop:
        """What turns rows into tokens."""
        return Workshop(self.data, self.tokenizer, as_stored=self.as_stored)

    @cached_property
    def tokenizer_hash(self) -> str:
        """Name the tokenizer by all that it is; takes a tenth of a second or two."""
        return tokenizer_hash(self.tokenizer)

    def load(self, source: Source | Validation) -> Loaded | None:
        """Load one source. What is wrong is added to `faults`; None when it cannot be used."""
        try:
            key = self.keys.of(source)
            if self.cache is None or key is None or not key.name:
                return self._afresh(source, key)
            return self.cache.find(key.name) or self._kept(self.cache, source, key)
        except DataError as error:
            self.faults += error.faults
            return None

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
            return self._afresh(source, self.keys.of(source))
        finally:
            cache.trim()

    def _for_cache(self, source: Source | Validation, key: Key, writer: RowWriter) -> SourceReport:
        report = self._read(source, key, writer)
        if report is None or self.faults:
            raise NotKept
        if self.keys.of(source) != key:
            raise StorageError(
                "the data, or the date in its template, changed meanwhile", fix="start again", code="E7-CACHE"
            )
        return report

    def _afresh(self, source: Source | Validation, key: Key | None) -> Loaded | None:
        with RowWriter() as writer:
            report = self._read(source, key, writer)
            if report is None:
                return None
            after = self.keys.of(source)
            if (after and after.files) != (key and key.files):
                self.faults.append(_changed(source))
            return Loaded(writer.build(), report)

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
        except OSError as error:
            what = f"cannot be read: {error.strerror or error}"
            self.faults.append(Fault(what, str(source.path), fix=READ_HINT, code="E3-FILE-READ"))
            return None
        self.faults += loading.faults()
        return loading.report(name, key.files if key else [])


def _changed(source: Source | Validation) -> Fault:
    what, fix = "changed while it was read", "start again when it is written"
    return Fault(what, str(source.path), fix, "E3-FILE-CHANGED")


class _Loading:
    """One source on its way."""

    def __init__(self, loader: Loader, source: Source | Validation, log: ReadLog, writer: RowWriter) -> None:
        self.data, self.workshop = loader.data, loader.workshop
        self.source, self.log = source, log
        self.writer = writer
        self.overlong = Overlong(self.data.max_length, self.data.on_overlong)
        self.unmaskable: list[BadRow] = []
        self.preferences = 0
        self.remarks: Counter[str] = Counter()

    def take(self, examples: Iterator[tuple[Row, Example]]) -> None:
        """Render, tokenise and keep rows."""
        for window, outcomes in worked(self.workshop, examples):
            for (row, _), outcome in zip(window, outcomes, strict=True):
                self._receive(row, outcome)

    def _receive(self, row: Row, outcome: Outcome) -> None:
        self.remarks["special"] += outcome.special
        result = outcome.result
        if result is None:
            self.preferences += 1
        elif isinstance(result, TemplateFault):
            self.unmaskable.append(BadRow(row.origin, result.reason, result.code, result.found))
        elif isinstance(result, RowFault):
            self.log.bad_row(row.origin, result)
        else:
            self._keep(row, result, outcome.remarks)

    def _keep(self, row: Row, encoded: Encoded, remarks: Iterable[str]) -> None:
        kept, unfinished = self.overlong.fit(encoded, row.origin)
        if kept is None:
            return
        self.writer.add(kept.tokens, kept.trained, row.file, row.line, unfinished=unfinished, label=kept.label)
        self.remarks.update(remarks)

    @property
    def read(self) -> int:
        """Rows met, of whatever fate."""
        return self.writer.rows + self.overlong.dropped + self.log.bad_count + len(self.unmaskable) + self.preferences

    def faults(self) -> list[Fault]:
        """Give what must stop the run."""
        found = [*self.log.faults, *grouped(self.unmaskable, UNMASKABLE_HINT)]
        if self.data.on_bad_row == "error":
            found += grouped(self.log.bad, SKIP_HINT)
        found += self.overlong.fault(str(self.source.path), self.read)
        if self.preferences:
            found.append(preferences_fault(self.preferences, str(self.source.path)))
        if not found and not self.writer.rows:
            found.append(
                Fault(
                    self._nothing_left(),
                    str(self.source.path),
                    fix=NO_ROWS_HINT,
                    code="E3-NO-ROWS",
                )
            )
        return found

    def _nothing_left(self) -> str:
        if not self.read:
            return "holds no rows"
        dropped = f"; {self.overlong.dropped:,} are longer than max_length" if self.overlong.dropped else ""
        bad = "".join(f"; {kind.where}: {kind.what}" for kind in grouped(self.log.bad, "")[:3])
        return f"none of {self.read:,} rows is left{dropped}{bad}"

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
        return [text.format(n=f"{self.remarks[key]:,}") for key, text in REMARKS.items() if self.remarks[key]]
