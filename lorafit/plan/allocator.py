"""A model of torch's caching allocator: what it holds on the card while tensors come and go.

Sizes are rounded to 512 bytes. A block up to 1 MiB comes out of a segment of 2 MiB, one below 10 MiB out of 20 MiB, a
larger one has a segment of its own, rounded to 2 MiB. The best free block is taken and its rest split off; freed
neighbours join again. A segment goes back only when the card is full, and only if all of it is free.

With expandable segments there is one segment for small blocks and one for large ones; each grows by pages of 2 or 20
MiB, and gives back every page that is free.
https://github.com/pytorch/pytorch/blob/v2.13.0/c10/cuda/CUDACachingAllocator.cpp
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

MIB = 2**20
ROUNDED = 512
SMALL_SIZE, SMALL_SEGMENT = MIB, 2 * MIB
LARGE_SIZE, LARGE_SEGMENT = 10 * MIB, 20 * MIB
SEGMENT_ROUNDED = 2 * MIB

Event = tuple[int, int]  # a tensor's number and its bytes; 0 bytes: it is freed


class CardFull(Exception):
    """The card has no room for a segment, even after every free one was given back."""


@dataclass(eq=False, slots=True)
class Block:
    """A part of a segment; `before` and `after` are its neighbours there."""

    size: int
    number: int
    small: bool
    free: bool = True
    before: "Block | None" = None
    after: "Block | None" = None


class CachingAllocator:
    """Holds segments for blocks; `capacity_bytes` is what the card has for them, None for no limit."""

    def __init__(self, capacity_bytes: int | None = None, *, expandable: bool = False) -> None:
        self.capacity_bytes, self.expandable = capacity_bytes, expandable
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0
        self._taken: dict[int, Block] = {}
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        self._tails: dict[bool, Block | None] = {True: None, False: None}  # of the expandable segments
        self._numbers = 0

    def allocate(self, tensor: int, size: int) -> None:
        """Find a place for a tensor. Raises CardFull."""
        rounded = -(-size // ROUNDED) * ROUNDED
        small = rounded <= SMALL_SIZE
        block = self._best(rounded, small) or self._segment(rounded, small)
        self._split(block, rounded)
        block.free = False
        self._taken[tensor] = block
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def play(self, events: Iterable[Event]) -> None:
        """Let tensors come and go in this order. Raises CardFull."""
        for tensor, size in events:
            if self.holds(tensor):
                self.release(tensor)
            if size:
                self.allocate(tensor, size)

    def holds(self, tensor: int) -> bool:
        """Tell whether this tensor has a place."""
        return tensor in self._taken

    def release(self, tensor: int) -> None:
        """Give a tensor's place back, joined with free neighbours."""
        block = self._taken.pop(tensor)
        self.allocated -= block.size
        block.free = True
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._discard(neighbour)
                block = self._join(block, neighbour)
        self._keep(block)

    def _best(self, size: int, small: bool) -> Block | None:
        """Take the smallest free block that is large enough; the end of an expandable segment only if it must be."""
        pool = self._free[small]
        place = bisect_left(pool, size, key=lambda entry: entry[0])
        if place + 1 < len(pool) and pool[place][2] is self._tails[small]:
            place += 1
        return pool.pop(place)[2] if place < len(pool) else None

    def _segment(self, size: int, small: bool) -> Block:
        needed = self._lacking(size, small)
        if self._is_full(needed):
            self._give_back()
            needed = self._lacking(size, small)
            if self._is_full(needed):
                raise CardFull
        self.reserved += needed
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return self._at_the_end(needed, small) if self.expandable else self._block(needed, small)

    def _lacking(self, size: int, small: bool) -> int:
        """The bytes that the card must give for a block: a segment, or pages behind what is free at the end."""
        if not self.expandable:
            return _segment_size(size, small)
        tail, page = self._tails[small], _page(small)
        return -(-(size - (tail.size if tail and tail.free else 0)) // page) * page

    def _at_the_end(self, size: int, small: bool) -> Block:
        block, tail = self._block(size, small), self._tails[small]
        self._tails[small] = block
        if tail is None:
            return block
        block.before, tail.after = tail, block
        if not tail.free:
            return block
        self._discard(tail)
        return self._join(block, tail)

    def _is_full(self, needed: int) -> bool:
        return self.capacity_bytes is not None and self.reserved + needed > self.capacity_bytes

    def _give_back(self) -> None:
        """Return every segment that is free as a whole, or every free page."""
        if self.expandable:
            self._give_back_pages()
            return
        for small, pool in self._free.items():
            whole = [entry for entry in pool if entry[2].before is None and entry[2].after is None]
            self.reserved -= sum(entry[0] for entry in whole)
            self._free[small] = [entry for entry in pool if entry not in whole]

    def _give_back_pages(self) -> None:
        """A free block keeps up to a page, as it rarely begins where a page does; addresses are plenty."""
        for small, pool in self._free.items():
            for _, _, block in list(pool):
                page = _page(small)
                spare = max(0, block.size // page - (block is not self._tails[small])) * page
                self._discard(block)
                block.size -= spare
                self.reserved -= spare
                self._keep(block)

    def _split(self, block: Block, size: int) -> None:
        rest = block.size - size
        if rest < ROUNDED or (not block.small and not self.expandable and rest <= SMALL_SIZE):
            return
        remainder = self._block(rest, block.small)
        remainder.before, remainder.after = block, block.after
        if block.after is not None:
            block.after.before = remainder
        block.after, block.size = remainder, size
        if self._tails[block.small] is block:
            self._tails[block.small] = remainder
        self._keep(remainder)

    def _join(self, block: Block, neighbour: Block) -> Block:
        """Make one block of two that lie side by side."""
        first, second = (neighbour, block) if block.before is neighbour else (block, neighbour)
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        if self._tails[first.small] is second:
            self._tails[first.small] = first
        return first

    def _block(self, size: int, small: bool) -> Block:
        self._numbers += 1
        return Block(size, self._numbers, small)

    def _keep(self, block: Block) -> None:
        insort(self._free[block.small], (block.size, block.number, block))

    def _discard(self, block: Block) -> None:
        pool = self._free[block.small]
        pool.pop(bisect_left(pool, (block.size, block.number), key=lambda entry: entry[:2]))


def _segment_size(size: int, small: bool) -> int:
    if small:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < LARGE_SIZE else -(-size // SEGMENT_ROUNDED) * SEGMENT_ROUNDED


def _page(small: bool) -> int:
    return SMALL_SEGMENT if small else LARGE_SEGMENT


def replay(events: Iterable[Event], capacity_bytes: int | None = None, *, expandable: bool = False) -> CachingAllocator:
    """Let tensors come and go in this order. Raises CardFull where they do not fit the capacity."""
    allocator = CachingAllocator(capacity_bytes, expandable=expandable)
    allocator.play(events)
    return allocator
