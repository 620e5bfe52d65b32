"""Loading, host memory and disk: against what files hold."""

from dataclasses import replace

import pytest

from lorafit.plan.memory import estimate
from lorafit.plan.outside import outside
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_by_name
from lorafit.recipe.adapters import Full, Lora
from lorafit.recipe.quantization import Nf4

EIGHT = MemoryQuestion(shape_by_name("llama-3.1-8b").shape, Lora(), Nf4())


def parts(question: MemoryQuestion, kept: int = 2) -> dict[str, int]:
    return {part.name: part.bytes for part in outside(question, estimate(question), kept)}


def test_a_published_checkpoint_takes_two_bytes_a_weight() -> None:
    assert parts(EIGHT)["disk of the base"] == 16_060_522_496  # what the index of Llama 3.1 8B says


def test_a_checkpoint_holds_the_adapter_and_both_moments() -> None:
    trained = 41_943_040
    assert parts(EIGHT, kept=3)["disk of the run"] == 4 * trained + 4 * (12 * trained)


def test_the_largest_tensor_passes_through_the_host() -> None:
    assert parts(EIGHT)["host memory while loading"] == 128_256 * 4096 * 2


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_model_that_is_trained_whole_is_not_merged(optimizer: str) -> None:
    found = parts(replace(EIGHT, adapter=Full(), optimizer=optimizer))
    assert not any("merge" in name for name in found)
    assert found["disk of the run"] > 4 * 4 * 8_000_000_000
