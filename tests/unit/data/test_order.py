"""The order of training: a pure function of the seed, the epoch and the position."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lorafit.data.order import packs_at, permutation, positions_of_step, random_words, shuffled

SEEDS = st.integers(0, 2**32 - 1)
WORDS = [6920600820727253070, 3058828199429447905]
ORDER = [1, 6, 0, 4, 7, 3, 2, 5]


@given(SEEDS, st.integers(0, 1000), st.integers(0, 300))
def test_an_epoch_takes_everything_once(seed: int, epoch: int, count: int) -> None:
    assert sorted(permutation(seed, epoch, count).tolist()) == list(range(count))


@given(SEEDS, st.integers(1, 40), st.integers(1, 17), st.integers(1, 5))
def test_every_pack_once_an_epoch_whatever_the_steps(seed: int, packs: int, batch: int, epochs: int) -> None:
    total = epochs * packs
    steps = [positions_of_step(step, batch, total) for step in range(-(-total // batch))]
    assert [position for step in steps for position in step] == list(range(total))
    seen = np.concatenate([packs_at(step, seed, packs) for step in steps]).reshape(epochs, packs)
    assert (np.sort(seen, axis=1) == np.arange(packs)).all()


@given(SEEDS, st.integers(1, 30), st.integers(1, 4), st.integers(0, 20))
def test_ranks_share_a_step_and_together_see_what_one_would(seed: int, packs: int, ranks: int, step: int) -> None:
    whole = packs_at(positions_of_step(step, 8, 10_000), seed, packs)
    shares = [packs_at(part, seed, packs) for part in _split(positions_of_step(step, 8, 10_000), ranks)]
    assert np.concatenate(shares).tolist() == whole.tolist()


def _split(positions: range, parts: int) -> list[range]:
    edges = [len(positions) * part // parts for part in range(parts + 1)]
    return [positions[start:end] for start, end in pairwise(edges)]


@given(SEEDS, st.integers(1, 30), st.integers(0, 100), st.integers(0, 100))
def test_a_position_is_a_place_in_the_order_of_its_epoch(seed: int, packs: int, start: int, count: int) -> None:
    found = packs_at(range(start, start + count), seed, packs).tolist()
    assert found == [permutation(seed, p // packs, packs)[p % packs] for p in range(start, start + count)]


def test_epochs_and_seeds_differ() -> None:
    orders = {permutation(seed, epoch, 50).tobytes() for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    assert shuffled(50, "a", 1).tolist() != shuffled(50, "b", 1).tolist()


def test_the_order_is_the_same_for_ever() -> None:
    """Numbers written down once: a change would resume old runs in another order."""
    assert random_words(2, "order", 42, 0).tolist() == WORDS
    assert permutation(42, 0, 8).tolist() == ORDER
    assert permutation(42, 1, 8).tolist() != ORDER


def test_past_the_end_there_is_nothing() -> None:
    assert len(positions_of_step(3, 10, 25)) == 0
    assert packs_at(positions_of_step(3, 10, 25), 1, 5).tolist() == []
    assert positions_of_step(2, 10, 25) == range(20, 25)
