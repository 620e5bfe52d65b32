"""Packs: nothing lost, nothing twice, nothing over, little wasted, always the same."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lorafit.data.packing import Packs, pack, unpacked


def fills(packs: Packs, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([lengths[packs.rows[a:b]].sum() for a, b in zip(packs.starts, packs.starts[1:], strict=False)])


def best_fit_decreasing(lengths: list[int], capacity: int) -> int:
    """The textbook's algorithm, row by row; gives the number of packs."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else capacity) - length)
    return len(rooms)


@given(st.lists(st.integers(1, 30), max_size=120), st.integers(0, 9))
def test_packs_are_a_partition_within_capacity_and_as_few_as_the_textbooks(lengths: list[int], seed: int) -> None:
    rows = np.arange(len(lengths), dtype=np.int64) + 7
    packs = pack(rows, np.array(lengths, dtype=np.int64), 30, seed)
    assert sorted(packs.rows.tolist()) == rows.tolist()
    by_row = np.concatenate([np.zeros(7, np.int64), np.array(lengths, np.int64)])
    assert (fills(packs, by_row) <= 30).all()
    assert (np.diff(packs.starts) > 0).all()
    assert len(packs) == best_fit_decreasing(lengths, 30)


def test_a_row_may_come_several_times() -> None:
    rows = np.array([0, 0, 1], dtype=np.int64)
    packs = pack(rows, np.array([6, 6, 4], dtype=np.int64), 10, 0)
    assert sorted(packs.rows.tolist()) == [0, 0, 1]
    assert len(packs) == 2


def test_deterministic_and_drawn_from_the_seed() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 500)
    rows = np.arange(500, dtype=np.int64)
    one, same, other = (pack(rows, lengths, 64, seed) for seed in (1, 1, 2))
    assert one.rows.tolist() == same.rows.tolist()
    assert one.rows.tolist() != other.rows.tolist()


def test_unpacked() -> None:
    packs = unpacked(np.array([3, 1, 3], dtype=np.int64))
    assert [packs.rows_of(np.array([number])).tolist() for number in range(3)] == [[3], [1], [3]]


@pytest.mark.parametrize("law", ["uniform", "lognormal", "short"])
def test_full_and_fast(law: str) -> None:
    rng, count, capacity = np.random.default_rng(0), 200_000, 2048
    lengths = {
        "uniform": rng.integers(1, capacity + 1, count),
        "lognormal": np.clip(rng.lognormal(5.5, 0.8, count), 1, capacity),
        "short": rng.poisson(60, count) + 1,
    }[law].astype(np.int64)
    started = time.process_time()
    packs = pack(np.arange(count, dtype=np.int64), lengths, capacity, 0)
    seconds = time.process_time() - started
    assert lengths.sum() / (len(packs) * capacity) >= 0.99
    assert seconds < 2  # a million rows take about a second; this is a fifth, on a busy machine
