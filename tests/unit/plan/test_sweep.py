"""A sweep: the values it stands for, and that each is the estimate of that value."""

from dataclasses import replace

import pytest

from lorafit.errors import RecipeError
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_by_name
from lorafit.plan.sweep import sweep
from lorafit.recipe.adapters import Full, Lora
from lorafit.recipe.quantization import Unquantized

QUESTION = MemoryQuestion(shape_by_name("llama-3.2-1b").shape, Lora(), Unquantized())


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("max_length=1k..8k", [1024, 2048, 4096, 8192]),
        ("max_length=1000..3000", [1000, 2000, 3000]),
        ("micro_batch_size=1..1", [1]),
        ("rank=8,64, 16", [8, 64, 16]),
        ("rank=8", [8]),
        ("data.max_length=8..16", [8, 16]),
    ],
)
def test_the_values_of_a_range(text: str, values: list[int]) -> None:
    assert [point.value for point in sweep(text, QUESTION, None).points] == values


def test_each_point_is_the_estimate_of_its_value() -> None:
    for point in sweep("max_length=1k..4k", QUESTION, None).points:
        assert point.peak_bytes == estimate(replace(QUESTION, max_length=point.value)).peak_bytes
    eight, sixteen = sweep("rank=8,16", QUESTION, None).points
    assert sixteen.peak_bytes > eight.peak_bytes


def test_what_does_not_fit_is_marked() -> None:
    found = sweep("max_length=1k..64k", QUESTION, 6 * 2**30)
    fits = [row["fits"] for row in found.as_json()]
    assert fits == sorted(fits, reverse=True)
    assert {True, False} == set(fits)
    assert found.as_text().count("does not fit") == fits.count(False)
    assert all(row["fits"] is None for row in sweep("rank=8", QUESTION, None).as_json())
    tight = estimate(replace(QUESTION, max_length=2048)).on_card_bytes - 1
    assert [row["verdict"] for row in sweep("max_length=1k,2k", QUESTION, tight).as_json()] == ["fits", "tight"]


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ({"model_type": "gpt2", "n_positions": 1024}, "Rows beyond 1,024 tokens cannot be read by the model"),
        ({"model_type": "llama", "max_position_embeddings": 1024}, "Rows beyond 1,024 tokens are new to it"),
        ({"model_type": "llama", "max_position_embeddings": 4096}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_rows_beyond_the_models_positions_are_said_to_be(config: dict[str, object], note: str) -> None:
    found = sweep("max_length=1k..4k", QUESTION, None, config)
    assert found.as_text().splitlines()[-1].startswith(note or "           4,096")
    assert [row["beyond_positions"] for row in found.as_json()] == [False, bool(note), bool(note)]
    assert sweep("rank=2048", QUESTION, None, config).note == ""


NO_RANGES = [
    "", "rank", "rank=0", "rank=8..4", "alpha=1..2", "data.rank=8", "adapter.max_length=1k",
    "max_length=1..99999999k", "rank=" + "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", NO_RANGES)
def test_faults(text: str) -> None:
    with pytest.raises(RecipeError):
        sweep(text, QUESTION, None)


def test_a_fault_says_what_was_written() -> None:
    with pytest.raises(RecipeError, match=r"max_length is from 8 to 10,000,000, and 0 is not"):
        sweep("max_length=0..16", QUESTION, None)


def test_full_fine_tuning_has_no_rank() -> None:
    with pytest.raises(RecipeError, match="no rank"):
        sweep("rank=8", replace(QUESTION, adapter=Full()), None)
