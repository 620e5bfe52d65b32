"""The learning rate follows its closed form at every step of every run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.plan.plan import make_plan
from lorafit.plan.schedule import learning_rate_at, warmup_steps
from lorafit.recipe.schema import TrainingSpec

SCHEDULES = ["constant", "linear", "cosine", "wsd"]
trainings = st.builds(
    TrainingSpec,
    schedule=st.sampled_from(SCHEDULES),
    learning_rate=st.floats(1e-6, 1.0),
    warmup=st.one_of(st.integers(0, 50), st.floats(0, 0.99)),
    max_steps=st.just(1),
)


@given(trainings, st.integers(1, 500))
def test_the_rate_stays_within_its_peak_and_is_never_zero_for_an_update(training: TrainingSpec, steps: int) -> None:
    rates = [learning_rate_at(step, steps, training) for step in range(steps)]
    assert all(0 < rate <= training.learning_rate * (1 + 1e-12) for rate in rates)


@given(trainings, st.integers(1, 500))
def test_it_rises_over_the_warmup_and_never_after(training: TrainingSpec, steps: int) -> None:
    ramp = warmup_steps(training, steps)
    rates = [learning_rate_at(step, steps, training) for step in range(steps)]
    assert rates[:ramp] == sorted(rates[:ramp])
    assert rates[ramp:] == sorted(rates[ramp:], reverse=True)


def test_cosine_at_known_points() -> None:
    training = TrainingSpec(schedule="cosine", learning_rate=1.0, warmup=10, max_steps=110)
    assert learning_rate_at(0, 110, training) == pytest.approx(0.1)
    assert learning_rate_at(10, 110, training) == pytest.approx(1.0)
    assert learning_rate_at(60, 110, training) == pytest.approx(0.5)
    assert learning_rate_at(85, 110, training) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.75)))


def test_wsd_is_flat_until_its_last_fifth() -> None:
    training = TrainingSpec(schedule="wsd", learning_rate=1.0, warmup=0, max_steps=100)
    rates = [learning_rate_at(step, 100, training) for step in range(100)]
    assert rates[:81] == pytest.approx([1.0] * 81)
    assert rates[90] == pytest.approx(0.5)


@given(st.integers(1, 5000), st.integers(1, 64), st.floats(0.1, 5))
def test_a_plan_sees_every_pack_and_no_more(packs: int, batch: int, epochs: float) -> None:
    plan = make_plan(
        TrainingSpec(epochs=epochs, global_batch_size=batch), packs, 1, micro_batch_size=1, recomputed_layers=0
    )
    assert (plan.total_steps - 1) * batch < plan.total_packs <= plan.total_steps * batch
    assert plan.total_packs == max(1, round(epochs * packs))
