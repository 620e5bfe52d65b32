"""Steps of many lengths: drawn as a data set is, and each as a trace at that length would be."""

import math
from statistics import mean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.plan.allocator import replay
from lorafit.plan.reserved import workspaces
from lorafit.plan.unroll import Recording, training
from scripts.vram_lengths import Lengths, Steps

MIB = 2**20
TRACED = (512, 1024, 2048)


def recorded(length: int) -> Recording:
    """A step with a tensor of rows, one of scores, and one that does not depend on the length."""
    step = [(10, 4096 * length), (11, 8 * length * length), (12, 3 * MIB), (11, 0), (10, 0), (12, 0), (13, 700)]
    return Recording([(1, 50 * MIB)], [(2, 30 * MIB)], [*step, (13, 0)], [(0, "forward"), (6, "optimizer step")], {}, 3)


STEPS = Steps({length: recorded(length) for length in TRACED})


@given(st.integers(16, 8192))
def test_a_step_at_any_length_is_what_a_trace_there_would_be(length: int) -> None:
    for found, own in zip(STEPS.at(length), recorded(length).step, strict=True):
        assert found == pytest.approx(own, abs=1)


@pytest.mark.parametrize("length", TRACED)
def test_rows_of_one_length_reserve_what_a_replay_does(length: int) -> None:
    events = [*workspaces(), *training(recorded(length))]
    assert STEPS.peak_reserved([length] * 3, None) == replay(events).peak_reserved


def test_rows_of_many_lengths_reserve_no_less() -> None:
    lengths = [1500, 700, 1900, 600, 2000, 1800, 2048]
    assert STEPS.peak_reserved(lengths, None) >= STEPS.peak_reserved([2048], None)


def test_lengths_have_the_mean_and_the_deviation_that_were_published() -> None:
    published = Lengths(1000.0, 500.0, 1, 10**6)
    drawn = published.draw(20_000, 10**6, seed=3)
    assert mean(drawn) == pytest.approx(1000, rel=0.02)
    assert pstdev(drawn) == pytest.approx(500, rel=0.05)


@given(st.integers(600, 3000), st.integers(0, 9))
def test_no_row_is_longer_than_asked_and_the_share_says_how_many_are_not(limit: int, seed: int) -> None:
    published = Lengths(1000.0, 500.0, 1, 10**6)
    assert max(published.draw(20, limit, seed)) <= limit
    assert 0 < published.share(limit) < published.share(2 * limit) <= 1
    assert math.isclose(published.share(10**9), 1)
