"""All rows of a set in tokens: flat arrays and where each row begins."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lorafit.data.tokens import Encoded


@dataclass(frozen=True)
class Origin:
    """Where rows come from: the files, and for each row its file's number and its line."""

    files: list[str]
    file: NDArray[np.int32]  # [rows]
    line: NDArray[np.int64]  # [rows]


@dataclass(frozen=True)
class TokenRows:
    """Rows one after another: row i is `tokens[starts[i]:starts[i + 1]]`.

    The first token of a row is never a target, having nothing before it. Under a head the one target of a row is
    its class, and no token is trained.
    """

    tokens: NDArray[np.int32]  # [total]
    trained: NDArray[np.bool_]  # [total]
    starts: NDArray[np.int64]  # [rows + 1]
    unfinished: NDArray[np.bool_]  # [rows]: cut at max_length, so its end is missing
    origin: Origin
    classes: NDArray[np.int32] | None = None  # [rows]: number of the class under a head, None without one

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, [rows]."""
        return np.diff(self.starts)

    @property
    def targets(self) -> NDArray[np.bool_]:
        """Tokens that the loss counts, [total]: those trained, but for the first of each row."""
        targets = self.trained.copy()
        targets[self.starts[:-1]] = False
        return targets

    @cached_property
    def row_targets(self) -> NDArray[np.int64]:
        """Targets of each row that the loss counts, [rows]: tokens, or its class."""
        if self.classes is not None:
            return np.ones(len(self), dtype=np.int64)
        before = offsets(self.targets.astype(np.int64))
        counts: NDArray[np.int64] = np.diff(before[self.starts])
        return counts

    def place(self, row: int) -> str:
        """Give where a row comes from, as `file:line`."""
        return f"{self.origin.files[self.origin.file[row]]}:{self.origin.line[row]}"

    def hashes(self) -> NDArray[np.uint64]:
        """Give a content hash of each row's tokens and targets, [rows]."""
        tokens, trained = self.tokens.tobytes(), self.trained.tobytes()
        digests = (
            hashlib.blake2b(tokens[4 * a : 4 * b] + trained[a:b], digest_size=8).digest()
            for a, b in pairwise(self.starts.tolist())
        )
        return np.frombuffer(b"".join(digests), dtype=np.uint64)

    def take(self, rows: NDArray[np.int64]) -> "TokenRows":
        """Give the rows with these numbers, in this order."""
        lengths = self.lengths[rows]
        index = ranges(self.starts[:-1][rows], lengths)
        origin = Origin(self.origin.files, self.origin.file[rows], self.origin.line[rows])
        classes = None if self.classes is None else self.classes[rows]
        return TokenRows(
            self.tokens[index], self.trained[index], offsets(lengths), self.unfinished[rows], origin, classes
        )


def offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give where things of these lengths begin when laid end to end, and the end: [n + 1]."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int64)


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lay the ranges `[start, start + length)` end to end."""
    total = int(lengths.sum())
    within = np.arange(total, dtype=np.int64) - np.repeat(offsets(lengths)[:-1], lengths)
    return np.repeat(starts, lengths) + within


class RowBuilder:
    """Gathers encoded rows into TokenRows; classes are numbered as they come, `labels` names them."""

    def __init__(self) -> None:
        self.tokens: list[NDArray[np.int32]] = []
        self.trained: list[NDArray[np.bool_]] = []
        self.unfinished: list[bool] = []
        self.files: dict[str, int] = {}
        self.file: list[int] = []
        self.line: list[int] = []
        self.classes: list[int] = []
        self.labels: dict[str, int] = {}

    def add(self, row: Encoded, file: str, line: int, *, unfinished: bool) -> None:
        """Append one row."""
        self.tokens.append(row.tokens)
        self.trained.append(row.trained)
        self.unfinished.append(unfinished)
        self.file.append(self.files.setdefault(file, len(self.files)))
        self.line.append(line)
        if row.label is not None:
            self.classes.append(self.labels.setdefault(row.label, len(self.labels)))

    def build(self) -> TokenRows:
        """Lay the rows end to end."""
        lengths = np.array([len(tokens) for tokens in self.tokens], dtype=np.int64)
        return TokenRows(
            np.concatenate([np.empty(0, np.int32), *self.tokens]),
            np.concatenate([np.empty(0, np.bool_), *self.trained]),
            offsets(lengths),
            np.array(self.unfinished, dtype=np.bool_),
            Origin(list(self.files), np.array(self.file, np.int32), np.array(self.line, np.int64)),
            np.array(self.classes, np.int32) if self.classes else None,
        )


def joined(parts: Sequence[TokenRows]) -> TokenRows:
    """Lay several sets end to end; all of them have classes, numbered alike, or none has."""
    files: list[str] = []
    numbers = []
    for part in parts:
        numbers.append(part.origin.file + np.int32(len(files)))
        files += part.origin.files
    lengths = np.concatenate([part.lengths for part in parts])
    return TokenRows(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.trained for part in parts]),
        offsets(lengths),
        np.concatenate([part.unfinished for part in parts]),
        Origin(files, np.concatenate(numbers), np.concatenate([part.origin.line for part in parts])),
        _joined_classes(parts),
    )


def _joined_classes(parts: Sequence[TokenRows]) -> NDArray[np.int32] | None:
    numbered = [part.classes for part in parts if part.classes is not None]
    assert len(numbered) in (0, len(parts))
    return np.concatenate(numbered) if numbered else None
