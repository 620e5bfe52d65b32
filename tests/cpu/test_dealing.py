"""Rows dealt to processes: every row once, as many rows each, and tokens as even as that allows."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafit.train.dealing import share

LENGTHS = st.lists(st.integers(1, 1000), min_size=1, max_size=40)


@settings(max_examples=200)
@given(LENGTHS, st.integers(1, 9), st.booleans())
def test_every_row_once_in_order_and_as_many_each(lengths: list[int], count: int, by_tokens: bool) -> None:
    tokens = np.array(lengths)
    window = np.random.default_rng(0).permutation(len(tokens)) + 100
    parts = [share(window, rank, count, tokens if by_tokens else None) for rank in range(count)]
    assert sorted(np.concatenate(parts)) == sorted(window)
    assert [len(part) for part in parts] == [len(part) for part in np.array_split(window, count)]
    places = {int(pack): place for place, pack in enumerate(window)}
    assert all([places[int(p)] for p in part] == sorted(places[int(p)] for p in part) for part in parts)


@settings(max_examples=200)
@given(LENGTHS, st.integers(2, 9))
def test_no_process_has_more_than_the_others_and_one_row(lengths: list[int], count: int) -> None:
    tokens = np.array(lengths)
    window = np.arange(len(tokens))
    loads = [int(tokens[share(window, rank, count, tokens)].sum()) for rank in range(count)]
    if len(tokens) % count == 0:
        assert max(loads) - min(loads) <= max(lengths)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 50), min_size=6, max_size=6))
def test_three_rows_each_are_dealt_nearly_as_well_as_can_be(lengths: list[int]) -> None:
    tokens = np.array(lengths)
    best = min(max(sum(order[:3]), sum(order[3:])) for order in permutations(lengths))
    dealt = max(int(tokens[share(np.arange(6), rank, 2, tokens)].sum()) for rank in (0, 1))
    assert dealt <= best * 4 / 3


@pytest.mark.parametrize(("batch", "count", "least"), [(16, 2, 1.1), (32, 4, 1.2), (64, 8, 1.3)])
def test_it_is_worth_it_on_rows_of_mixed_lengths(batch: int, count: int, least: float) -> None:
    drawn = np.random.default_rng(0).lognormal(np.log(180) - 0.32, 0.8, (100, batch))
    windows, place = np.clip(drawn.astype(np.int64), 16, 1024), np.arange(batch)

    def slowest(window: np.ndarray, tokens: np.ndarray | None) -> int:
        return max(int(window[share(place, rank, count, tokens)].sum()) for rank in range(count))

    together, dealt = (sum(slowest(w, w if by else None) for w in windows) for by in (False, True))
    assert together > least * dealt
