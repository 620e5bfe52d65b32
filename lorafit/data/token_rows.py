"""All rows of a set in tokens: flat arrays, in memory or mapped from disk, and a table that says where each row is."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lorafit.errors import StorageError

# one line of the table; `struct` writes it as ROW_FORMAT
ROW_FIELDS = np.dtype(
    [
        ("begin", "<i8"),  # where the row's tokens begin in its part
        ("hash", "<u8"),  # of its tokens, targets and class
        ("line", "<i8"),  # 1-based, in its file
        ("length", "<i4"),  # in tokens
        ("targets", "<i4"),  # tokens that the loss counts; under a head 1, the class
        ("largest", "<i4"),  # token id
        ("file", "<i4"),
        ("part", "<i4"),
        ("label", "<i4"),  # number of its class, NO_LABEL without one
        ("unfinished", "?"),  # cut at max_length, so its end is missing
    ]
)
ROW_FORMAT = "<qQqiiiiii?"
NO_LABEL = -1


@dataclass(frozen=True)
class Part:
    """The tokens of one source, row after row, and which of them are trained."""

    tokens: NDArray[np.int32]  # [total]
    trained: NDArray[np.bool_]  # [total]
    where: str = ""  # the folder that they are mapped from, "" in memory


@dataclass(frozen=True)
class TokenRows:
    """Rows by number: a table, which is small, over tokens, which may be larger than memory.

    The first token of a row is never a target, having nothing before it. Under a head the one target of a row is
    its class, and no token is trained. Choosing rows copies no token.
    """

    parts: tuple[Part, ...]
    table: NDArray[np.void]  # [rows], of ROW_FIELDS
    files: tuple[str, ...]
    labels: tuple[str, ...] = ()  # names of the classes by their number; () where there are none

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, [rows]."""
        return self.table["length"].astype(np.int64)

    @property
    def row_targets(self) -> NDArray[np.int64]:
        """Targets of each row that the loss counts, [rows]: tokens, or its class."""
        return self.table["targets"].astype(np.int64)

    @property
    def largest_ids(self) -> NDArray[np.int32]:
        """Largest token id of each row, [rows]."""
        return self.table["largest"].astype(np.int32)

    @property
    def unfinished(self) -> NDArray[np.bool_]:
        """Rows that were cut at max_length, [rows]."""
        return self.table["unfinished"].astype(np.bool_)

    @property
    def classes(self) -> NDArray[np.int32] | None:
        """Class of each row by its number in `labels`, [rows]; None where rows have no class."""
        return self.table["label"].astype(np.int32) if self.labels else None

    def place(self, row: int) -> str:
        """Give where a row comes from, as `file:line`."""
        found = self.table[row]
        return f"{self.files[found['file']]}:{found['line']}"

    def hashes(self) -> NDArray[np.uint64]:
        """Give a content hash of each row's tokens, targets and class, [rows]."""
        return self.table["hash"].astype(np.uint64)

    def take(self, rows: NDArray[np.int64]) -> "TokenRows":
        """Give the rows with these numbers, in this order."""
        return replace(self, table=self.table[rows])

    def row(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Give the tokens of a row, and which are trained; StorageError when its file no longer holds them."""
        at = self.table[number]
        part = self.parts[at["part"]]
        span = slice(int(at["begin"]), int(at["begin"]) + int(at["length"]))
        tokens, trained = part.tokens[span], part.trained[span]
        label = None if at["label"] == NO_LABEL else self.labels[at["label"]]
        if row_hash(tokens, trained, label) != int(at["hash"]):
            raise StorageError(
                f"the cached tokens of {self.place(number)} are damaged",
                where=part.where,
                fix="delete that folder and start again (--resume goes on with a run)",
                code="E7-CACHE",
            )
        return tokens, trained

    def laid_out(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Lay some rows end to end: their tokens, and which are trained. A copy."""
        found = [self.row(number) for number in rows.tolist()]
        tokens = np.concatenate([np.empty(0, np.int32), *(tokens for tokens, _ in found)])
        return tokens, np.concatenate([np.empty(0, np.bool_), *(trained for _, trained in found)])

    # the whole set end to end, for sets that fit into memory

    @cached_property
    def _everything(self) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        return self.laid_out(np.arange(len(self)))

    @property
    def tokens(self) -> NDArray[np.int32]:
        """All rows end to end, [total]: row i is `tokens[starts[i]:starts[i + 1]]`. A copy."""
        return self._everything[0]

    @property
    def trained(self) -> NDArray[np.bool_]:
        """Which of `tokens` are trained, [total]. A copy."""
        return self._everything[1]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where rows begin in `tokens`, and the end: [rows + 1]."""
        return offsets(self.lengths)

    @property
    def targets(self) -> NDArray[np.bool_]:
        """Which of `tokens` the loss counts, [total]: those trained, but for the first of each row."""
        targets = self.trained.copy()
        targets[self.starts[:-1]] = False
        return targets


def row_hash(tokens: NDArray[np.int32], trained: NDArray[np.bool_], label: str | None = None) -> int:
    """Hash what a row is."""
    digest = hashlib.blake2b(tokens.data, digest_size=8)
    digest.update(trained.data)
    if label is not None:
        digest.update(label.encode())
    return int.from_bytes(digest.digest(), "little")


def offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give where things of these lengths begin when laid end to end, and the end: [n + 1]."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int64)


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lay the ranges `[start, start + length)` end to end."""
    total = int(lengths.sum())
    within = np.arange(total, dtype=np.int64) - np.repeat(offsets(lengths)[:-1], lengths)
    return np.repeat(starts, lengths) + within


def joined(sets: Sequence[TokenRows], labels: Sequence[str] = ()) -> TokenRows:
    """Put several sets one after another; copies no token.

    Their classes are numbered as in `labels`, which must hold them all, and without it as `in_order` puts them.
    """
    parts = tuple(part for rows in sets for part in rows.parts)
    files = tuple(file for rows in sets for file in rows.files)
    names = tuple(labels) or in_order({label for rows in sets for label in rows.labels})
    tables = list(_renumbered([relabelled(rows, names) for rows in sets])) or [np.empty(0, ROW_FIELDS)]
    return TokenRows(parts, np.concatenate(tables), files, names)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Put the names of classes in order: as numbers where all of them are, else as text."""
    names = sorted(labels)
    with suppress(ValueError):
        names.sort(key=float)
    return tuple(names)


def relabelled(rows: TokenRows, labels: tuple[str, ...]) -> TokenRows:
    """Number the classes of rows as they stand in another list, which must hold them all."""
    if rows.labels == labels:
        return rows
    table = rows.table.copy()
    numbers = np.array([*(labels.index(label) for label in rows.labels), NO_LABEL], np.int32)
    table["label"] = numbers[table["label"]]
    return replace(rows, table=table, labels=labels)


def _renumbered(sets: Sequence[TokenRows]) -> Iterator[NDArray[np.void]]:
    parts = files = 0
    for rows in sets:
        table = rows.table.copy()
        table["part"] += parts
        table["file"] += files
        parts, files = parts + len(rows.parts), files + len(rows.files)
        yield table
