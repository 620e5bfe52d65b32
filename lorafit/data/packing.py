"""Several short rows in one pack: best-fit decreasing over the whole set, a whole length at a time."""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lorafit.data.order import shuffled
from lorafit.data.token_rows import TokenRows, offsets, ranges


@dataclass(frozen=True)
class Packs:
    """Rows that share a sequence: pack i holds `rows[starts[i]:starts[i + 1]]`."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]  # [packs + 1]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows_of(self, packs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the rows of some packs, one pack after another."""
        return self.rows[ranges(self.starts[:-1][packs], np.diff(self.starts)[packs])]

    def tokens(self, rows: TokenRows, packs: NDArray[np.int64]) -> int:
        """Count the tokens of some packs."""
        return int(rows.lengths[self.rows_of(packs)].sum())

    def tokens_of_each(self, rows: TokenRows) -> NDArray[np.int64]:
        """Count the tokens of every pack, [packs]."""
        return np.add.reduceat(rows.lengths[self.rows].astype(np.int64), self.starts[:-1])

    def target_tokens(self, rows: TokenRows, packs: NDArray[np.int64]) -> int:
        """Count the tokens of some packs that the loss counts."""
        return int(rows.row_targets[self.rows_of(packs)].sum())


def unpacked(rows: NDArray[np.int64]) -> Packs:
    """Put each row in a pack of its own."""
    return Packs(rows, np.arange(len(rows) + 1, dtype=np.int64))


def pack(rows: NDArray[np.int64], lengths: NDArray[np.int64], capacity: int, seed: int) -> Packs:
    """Fill packs of `capacity` tokens with rows (`lengths` belongs to `rows`), wasting as little as possible.

    Best-fit decreasing: the longest row first, each into the fullest pack that still takes it. Rows of equal
    length are interchangeable, so they are placed together, in an order drawn from the seed: the work grows
    with the number of different lengths, not of rows.
    """
    assert len(lengths) == 0 or (lengths.min() >= 1 and lengths.max() <= capacity)
    drawn = shuffled(len(rows), "pack", seed)
    order = drawn[np.argsort(-lengths[drawn], kind="stable")]
    packer = _Packer(capacity)
    bins = np.empty(len(rows), dtype=np.int64)
    for start, end in _runs(lengths[order]):
        bins[order[start:end]] = packer.place(int(lengths[order[start]]), end - start)
    by_bin = np.argsort(bins, kind="stable")
    return Packs(rows[by_bin], offsets(np.bincount(bins, minlength=packer.count).astype(np.int64)))


class _Packer:
    """The open packs, by how many tokens each still takes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self.open: dict[int, list[NDArray[np.int64]]] = {}
        self.rooms: list[int] = []  # the sizes of `open`, ascending

    def place(self, length: int, number: int) -> NDArray[np.int64]:
        """Place so many rows of one length; give each one's pack."""
        placed = []
        while number:
            room, packs = self._fullest(length, number)
            each = room // length
            whole = min(len(packs), number // each)
            taken, rest = packs[:whole], packs[whole:]
            placed.append(np.repeat(taken, each))
            self._keep(room - each * length, taken)
            number -= whole * each
            if number < each and len(rest):  # the last rows do not fill a pack
                placed.append(np.repeat(rest[:1], number))
                self._keep(room - number * length, rest[:1])
                number, rest = 0, rest[1:]
            self._keep(room, rest)
        return np.concatenate(placed)

    def _fullest(self, length: int, number: int) -> tuple[int, NDArray[np.int64]]:
        """Take out the packs with the least room that suffices, or open as many as the rows need."""
        at = bisect.bisect_left(self.rooms, length)
        if at < len(self.rooms):
            room = self.rooms.pop(at)
            return room, np.concatenate(self.open.pop(room))
        needed = -(-number // (self.capacity // length))
        self.count += needed
        return self.capacity, np.arange(self.count - needed, self.count, dtype=np.int64)

    def _keep(self, room: int, packs: NDArray[np.int64]) -> None:
        if room and len(packs):
            if room not in self.open:
                bisect.insort(self.rooms, room)
                self.open[room] = []
            self.open[room].append(packs)


def _runs(lengths: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Give the ranges of equal values."""
    changes = np.flatnonzero(np.diff(lengths)) + 1
    edges = [0, *changes.tolist(), len(lengths)]
    return ((start, end) for start, end in pairwise(edges) if end > start)
