"""What torch reserves over a run whose rows have many lengths.

A step is traced at three lengths; every tensor's size is a polynomial of the length, which gives the step at any other
length. Steps of rows drawn at random then go through the model of torch's allocator, one after another, as in a run:
what was freed by one row rarely fits the next.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from lorafit.plan.allocator import SMALL_SIZE, CachingAllocator, Event
from lorafit.plan.reserved import workspaces
from lorafit.plan.unroll import Recording


@dataclass(frozen=True)
class Lengths:
    """What is published of a data set's rows, in tokens."""

    mean: float
    deviation: float
    least: int
    most: int

    def share(self, max_length: int) -> float:
        """Give the share of rows that are no longer than this."""
        return NormalDist(*self._logarithm).cdf(math.log(max_length))

    def draw(self, count: int, max_length: int, seed: int) -> list[int]:
        """Draw so many rows that are no longer than `max_length`."""
        draw = random.Random(seed)
        found: list[int] = []
        while len(found) < count:
            length = round(draw.lognormvariate(*self._logarithm))
            if self.least <= length <= min(self.most, max_length):
                found.append(length)
        return found

    @property
    def _logarithm(self) -> tuple[float, float]:
        """Mean and deviation of the logarithm: lengths of texts are positive, and have a long tail."""
        variance = math.log(1 + (self.deviation / self.mean) ** 2)
        return math.log(self.mean) - variance / 2, math.sqrt(variance)


class Steps:
    """A step at any length; `traces` are of the same model at three lengths."""

    def __init__(self, traces: Mapping[int, Recording]) -> None:
        first = traces[min(traces)]
        sizes = {length: {n: size for n, size in found.step if size} for length, found in traces.items()}
        assert len({tuple(each) for each in sizes.values()}) == 1, "a step has the same tensors at every length"
        self.held: list[Event] = [*first.weights]
        self.states = first.states
        self._terms = {number: _parabola({at: sizes[at][number] for at in traces}) for number in sizes[min(traces)]}
        self._order = [number for number, _ in first.step]
        self._update = [number for number, (start, name) in enumerate(first.phases) if name.startswith("optimizer")]
        self._update_at = first.phases[self._update[-1]][0]

    def at(self, length: int) -> Iterator[Event]:
        """Give the step's events, the second of a tensor being its death."""
        live: set[int] = set()
        for number in self._order:
            if number not in self._terms:  # held before the step
                yield number, 0
            elif number in live:
                live.remove(number)
                yield number, 0
            else:
                live.add(number)
                a, b, c = self._terms[number]
                yield number, max(1, round(a + length * (b + length * c)))

    def peak_reserved(self, lengths: Sequence[int], capacity_bytes: int | None) -> int:
        """Reserve for one step after another. Raises CardFull.

        Small tensors have a pool of their own, whose segments are counted over one step of the longest row.
        """
        large, small = CachingAllocator(capacity_bytes), CachingAllocator()
        _play(large, [*workspaces(), *self.held], small=False)
        _play(small, self.held, small=True)
        for place, length in enumerate(lengths):
            step = list(self.at(length))
            if not place:
                _play(large, [*step[: self._update_at], *self.states, *step[self._update_at :]], small=False)
            else:
                _play(large, step, small=False)
        longest = list(self.at(max(lengths)))
        _play(small, [*longest[: self._update_at], *self.states, *longest[self._update_at :], *longest], small=True)
        return large.peak_reserved + small.peak_reserved


def _play(allocator: CachingAllocator, events: Sequence[Event], *, small: bool) -> None:
    for tensor, size in events:
        if allocator.holds(tensor):
            allocator.release(tensor)
        if size and (size <= SMALL_SIZE) is small:
            allocator.allocate(tensor, size)


def _parabola(sizes: Mapping[int, int]) -> tuple[float, float, float]:
    (x, p), (y, q), (z, r) = sorted(sizes.items())
    c = ((r - p) / (z - x) - (q - p) / (y - x)) / (z - y)
    b = (q - p) / (y - x) - c * (x + y)
    return p - b * x - c * x * x, b, c
