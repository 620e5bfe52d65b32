"""What became of every row: the account of the data that a run leaves in its manifest."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from lorafit.data.faults import BadRow

MANY_CLASSES = 12  # more than these are summed up


@dataclass(frozen=True)
class FileRecord:
    """A file that rows were read from."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Counts:
    """Rows: `read = kept + dropped + bad`; those truncated are kept."""

    read: int = 0
    kept: int = 0
    dropped: int = 0
    truncated: int = 0
    bad: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.read + other.read,
            self.kept + other.kept,
            self.dropped + other.dropped,
            self.truncated + other.truncated,
            self.bad + other.bad,
        )


@dataclass(frozen=True)
class SourceReport:
    """The account of one source."""

    path: str
    use: str  # train or validation
    format: str
    detected: bool
    counts: Counts
    files: list[FileRecord]
    bad_rows: list[BadRow]
    tokens: int
    target_tokens: int
    longest: int
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Give the account to a program."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "SourceReport":
        """Read what `as_json` gave."""
        parts = {
            "counts": Counts(**value["counts"]),
            "files": [FileRecord(**file) for file in value["files"]],
            "bad_rows": [BadRow(**row) for row in value["bad_rows"]],
        }
        return cls(**{**value, **parts})

    def as_text(self) -> str:
        """Give the account in a line."""
        counts = self.counts
        gone = [
            f"{number:,} {what}"
            for number, what in (
                (counts.dropped, "dropped"),
                (counts.truncated, "truncated"),
                (counts.bad, "bad"),
            )
            if number
        ]
        seen = " (detected)" if self.detected else ""
        lost = f" ({', '.join(gone)})" if gone else ""
        return f"{self.use}: {self.path}: {counts.kept:,} of {counts.read:,} rows{lost}, format {self.format}{seen}"


@dataclass(frozen=True)
class SetReport:
    """A set as it is trained or validated on, after splitting and mixing."""

    rows: int
    duplicates: int  # rows that an earlier one already says, word for word
    packs: int
    tokens: int
    target_tokens: int
    fill: float  # share of the packs' room that holds tokens
    content: str = ""  # hash of the rows, each by its tokens, targets and class

    def as_text(self, max_length: int, *, classed: bool = False) -> str:
        """Give the sizes of the set in a line; `classed` rows have a class to be told, and no token."""
        share = f" ({100 * self.target_tokens / max(1, self.tokens):.0f}%)"
        trained = f"{self.target_tokens:,} classes to tell" if classed else f"{self.target_tokens:,} trained{share}"
        same = f" ({self.duplicates:,} of them said before)" if self.duplicates else ""
        return (
            f"{_many(self.rows, 'row')}{same} in {_many(self.packs, 'pack')} of up to {max_length:,} tokens "
            f"({100 * self.fill:.1f}% full), {self.tokens:,} tokens, {trained}"
        )


@dataclass(frozen=True)
class DataReport:
    """The account of all data of a run."""

    sources: list[SourceReport]
    train: SetReport
    validation: SetReport | None
    max_length: int
    fingerprint: str  # of everything that changes tokens
    histogram: dict[str, int]  # rows by tokens, up to
    notes: list[str]  # on the template; those on the rows stand with their source
    overlap: int | None = None  # rows to validate on that are also trained on: 0, being refused; None without any
    labels: list[str] = field(default_factory=list)  # the classes of a head, by their number; [] without one
    class_rows: list[int] = field(default_factory=list)  # rows to train on, of each class

    @property
    def counts(self) -> Counts:
        """Give the counts over all sources."""
        return sum((source.counts for source in self.sources), Counts())

    def as_json(self) -> dict[str, object]:
        """Give the account to a program."""
        return {**asdict(self), "counts": asdict(self.counts)}

    def account(self) -> dict[str, object]:
        """Give what a run's manifest keeps: every number, and no single row."""
        named = ("path", "use", "format", "counts", "tokens", "target_tokens", "longest")
        return {
            "counts": asdict(self.counts),
            "bad_rows": self._bad_by_code(),
            "sources": [{key: asdict(source)[key] for key in named} for source in self.sources],
            "train": asdict(self.train),
            "validation": asdict(self.validation) if self.validation else None,
            "overlap": self.overlap,
            "max_length": self.max_length,
            "histogram": self.histogram,
        }

    def _bad_by_code(self) -> dict[str, int]:
        """Count bad rows by their reason; those beyond the ones that are listed count as `unlisted`."""
        codes = Counter(row.code for source in self.sources for row in source.bad_rows)
        unlisted = self.counts.bad - codes.total()
        return dict(sorted(codes.items())) | ({"unlisted": unlisted} if unlisted else {})

    def as_text(self) -> str:
        """Give the account to a person, a line for each fact."""
        lines = [source.as_text() for source in self.sources]
        lines.append(f"train: {self.train.as_text(self.max_length, classed=bool(self.labels))}")
        if self.labels:
            lines.append(f"classes: {_balance(self.labels, self.class_rows)}")
        if self.validation is not None:
            lines.append(f"validation: {self.validation.as_text(self.max_length, classed=bool(self.labels))}")
        remarks = [f"{source.path}: {note}" for source in self.sources for note in source.notes]
        return "\n".join([*lines, *(f"note: {note}" for note in dict.fromkeys([*self.notes, *remarks]))])


def _balance(labels: list[str], rows: list[int]) -> str:
    """Name the classes with their rows; of many, how many there are, the rarest and the most frequent."""
    counted = sorted(zip(rows, labels, strict=True))
    if len(labels) <= MANY_CLASSES:
        return ", ".join(f"{label} {count:,}" for label, count in zip(labels, rows, strict=True))
    (fewest, rarest), (most, commonest) = counted[0], counted[-1]
    return f"{len(labels):,}, from {fewest:,} rows ({rarest}) to {most:,} ({commonest})"


def fingerprint(facts: dict[str, object]) -> str:
    """Hash facts in canonical form."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
