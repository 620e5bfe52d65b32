"""The estimate against the traced step over random models and settings: some and hundreds in the soak."""

import statistics

import pytest

from scripts.vram_agreement import agreements


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", [pytest.param(n, marks=pytest.mark.slow) for n in (20, 500)])
def test_the_estimate_agrees_with_the_trace(count: int) -> None:
    found = list(agreements(count, seed=3))
    errors = sorted(abs(each.error) for each in found)
    worst = max(found, key=lambda each: abs(each.error))
    assert statistics.median(errors) <= 0.01
    assert errors[round(0.9 * (len(errors) - 1))] <= 0.15, worst
