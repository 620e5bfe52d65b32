"""Who takes which rows of a global batch, so that no process waits long for another."""

import heapq

import numpy as np
from numpy.typing import NDArray


def share(
    window: NDArray[np.int64], rank: int, count: int, tokens: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Give a process its part of the global batch, in order; parts differ by one pack at most.

    With `tokens` [window], those of each pack, parts have as even a number of them as that allows; else a part is what
    stands together. The sum over the batch is the same either way, up to the order it is added up in.
    """
    if tokens is None or count == 1:
        part: NDArray[np.int64] = np.array_split(window, count)[rank]
        return part
    dealt: NDArray[np.int64] = window[_dealt(tokens, count) == rank]
    return dealt


def _dealt(tokens: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Say who takes each: the longest first, to whoever has the fewest tokens and still room."""
    room = [len(part) for part in np.array_split(tokens, count)]
    loads = [(0, rank) for rank in range(count) if room[rank]]
    takers = np.empty(len(tokens), dtype=np.int64)
    for place in np.argsort(-tokens, kind="stable"):
        load, rank = heapq.heappop(loads)
        takers[place], room[rank] = rank, room[rank] - 1
        if room[rank]:
            heapq.heappush(loads, (load + int(tokens[place]), rank))
    return takers
