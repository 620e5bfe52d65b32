"""Plain transformers in place of lorafit: against traces of its real step, and against what cards have shown."""

import csv
import os
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from lorafit.errors import RecipeError
from lorafit.plan.ask import METHODS, ask, default_recipe, with_options
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_by_name
from lorafit.plan.stack import HABITS, Stack, Upcast, find_stack
from lorafit.plan.vram import answer
from lorafit.recipe.adapters import Full, Lora
from scripts.vram_accuracy import compared

GIB = 2**30
SHARED = Path(os.environ.get("LORAFIT_SHARED", Path(__file__).parents[3].with_name("shared")))
MEASURED = SHARED / "data/vram/measured.csv"


def question(model: str, method: str, upcast: Upcast, rows: int, length: int, *, kept: bool = False) -> MemoryQuestion:
    recipe = with_options(
        default_recipe(model, method),
        method=method,
        rank=16,
        target_modules=None,
        max_length=length,
        micro_batch_size=rows,
    )
    found = ask(recipe, shape_by_name(model).shape, 1, None, Stack((5, 23), upcast, kernel="flash_attention_2"))
    return replace(found, optimizer="adamw", accumulation=False, checkpointing=not kept)


# GiB, from fake-tensor traces of transformers 5.23 with PEFT 0.21 and bitsandbytes 0.50: rank 16 on all linears
TRACED = [
    (question("llama-3.1-8b", "qlora", "none", 1, 2048), 9.25),
    (question("llama-3.1-8b", "qlora", "norms", 1, 2048), 9.73),
    (question("llama-3.1-8b", "qlora", "all", 1, 2048), 12.68),
    (question("llama-3.1-8b", "lora", "none", 1, 2048), 18.89),
    (question("llama-3.1-8b", "qlora", "none", 4, 2048), 19.65),
    (question("llama-3.1-8b", "qlora", "none", 4, 2048, kept=True), 62.69),
    (question("llama-3.1-70b", "qlora", "none", 1, 1024), 42.03),
    (question("llama-3.1-70b", "qlora", "all", 1, 1024), 49.17),
    (question("qwen3-8b", "qlora", "none", 1, 2048), 10.22),
]


@pytest.mark.parametrize(("asked", "gibibytes"), TRACED)
def test_it_is_what_a_trace_of_the_real_step_gives(asked: MemoryQuestion, gibibytes: float) -> None:
    assert estimate(asked).peak_bytes / GIB == pytest.approx(gibibytes, rel=0.002)


@pytest.mark.skipif(not MEASURED.exists(), reason="no measurements beside the checkout: set LORAFIT_SHARED")
def test_it_is_what_cards_have_shown() -> None:
    with MEASURED.open(encoding="utf-8", newline="") as lines:
        errors = [abs(each.error) for each in compared(list(csv.DictReader(lines)))]
    assert len(errors) >= 35  # 17 on one card, 18 on two
    assert statistics.median(errors) <= 0.0005
    assert max(errors) <= 0.004


def test_the_loss_of_each_version() -> None:
    sizes = {(4, 45, 2): 12, (4, 46): 14, (4, 48, 1): 14, (4, 49): 10, (4, 57, 6): 10, (5, 23): 10}
    assert {version: Stack(version).loss_forward_bytes() for version in sizes} == sizes


def test_full_fine_tuning_is_in_the_dtype_of_the_base() -> None:
    """Weights, gradients, two moments, and before version 5 a list of temporaries: five times 2 bytes."""
    asked = replace(question("mistral-7b", "lora", "none", 1, 256), adapter=Full(), stack=Stack((4, 48, 1)))
    assert estimate(asked).peak_phase == "optimizer step"
    assert estimate(asked).peak_bytes == pytest.approx(10 * asked.shape.total_parameters, rel=0.001)


def test_engines_as_people_type_them() -> None:
    assert find_stack("lorafit", None, "sdpa") is None
    assert find_stack("transformers", None, "sdpa") == Stack()
    assert find_stack("Transformers@4.48.1", "all", "eager") == Stack((4, 48, 1), "all", kernel="eager")
    long = "transformers@" + "4" * 5000
    for engine, upcast in (
        ("trl", None),
        (long, None),
        ("transformers@", None),
        ("transformers@4.2", None),
        ("transformers@99", None),
        ("transformers@6", None),
        ("transformers@4.58", None),  # there was none
        ("lorafit", "all"),
    ):
        with pytest.raises(RecipeError):
            find_stack(engine, upcast, "sdpa")
    with pytest.raises(RecipeError, match="did you mean norms"):
        find_stack("transformers", "norm", "sdpa")


def test_habits_of_transformers_are_of_transformers() -> None:
    found = find_stack("transformers", None, "sdpa", list(HABITS))
    assert found == Stack(
        amp=False, padded=True, cache=True, narrow_adapters=True, keeps_packed_inputs=True, loss="fused"
    )
    for habit in HABITS:
        with pytest.raises(RecipeError, match=f"{habit} .*transformers"):
            find_stack("lorafit", None, "sdpa", [habit])
    with pytest.raises(RecipeError, match="did you mean no-amp"):
        find_stack("transformers", None, "sdpa", ["no_amp"])


def test_a_name_alone_trains_as_the_trainer_does_and_set_changes_it() -> None:
    options = {"rank": None, "target_modules": None, "max_length": None, "micro_batch_size": 4, "gpus": 1, "gpu": None}
    plain = answer(None, model="8b", method="qlora", engine="transformers", **options).question  # type: ignore[arg-type]
    assert (plain.optimizer, plain.accumulation) == ("adamw", False)
    settings = ["training.optimizer=adamw_8bit", "training.global_batch_size=32", "adapter.dropout=0.1"]
    changed = answer(
        None,
        model="8b",
        method="qlora",
        engine="transformers",
        overrides=settings,
        **options,  # type: ignore[arg-type]
    ).question
    assert (changed.optimizer, changed.accumulation) == ("adamw_8bit", True)
    assert changed.adapter == Lora(dropout=0.1)
    with pytest.raises(RecipeError, match=r"training\.optimiser"):
        answer(None, model="8b", method=None, overrides=["training.optimiser=adamw"], **options)  # type: ignore[arg-type]


def test_a_published_run_may_have_left_its_scales_unpacked() -> None:
    """transformers' own default is `bnb_4bit_use_double_quant=False`."""
    options = {
        "rank": None,
        "target_modules": None,
        "max_length": None,
        "micro_batch_size": None,
        "gpus": 1,
        "gpu": None,
    }
    single, double = (
        answer(
            None,
            model="8b",
            method="qlora",
            engine="transformers",
            overrides=[f"quantization.double_quant={asked}"],
            **options,  # type: ignore[arg-type]
        ).estimate.peak_bytes
        for asked in ("false", "true")
    )
    assert single > double


@pytest.mark.parametrize("method", METHODS)
def test_setting_what_memory_does_not_read_changes_no_name(method: str) -> None:
    options = {"rank": None, "target_modules": None, "max_length": None, "micro_batch_size": None, "gpus": 1}
    named = answer(None, model="8b", method=method, gpu=None, **options).question  # type: ignore[arg-type]
    assert answer(None, model="8b", method=method, gpu=None, overrides=["seed=7"], **options).question == named  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "setting",
    ["quantization.kind=nf4", "adapter={kind: dora}", "model.path=70b", "adapter.rank=8", "data.max_length=64"],
)
def test_what_an_option_and_set_both_say_is_refused(setting: str) -> None:
    options = {"rank": 16, "target_modules": None, "max_length": 512, "micro_batch_size": None, "gpus": 1, "gpu": None}
    with pytest.raises(RecipeError, match="say the same"):
        answer(None, model="8b", method="lora", overrides=[setting], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["full", "dora"])
def test_a_name_is_split_only_where_a_recipe_is(method: str) -> None:
    options = {"rank": None, "target_modules": None, "max_length": None, "micro_batch_size": None, "gpu": None}
    with pytest.raises(RecipeError, match="--sharding"):
        answer(None, model="8b", method=method, gpus=2, sharding="full", **options)  # type: ignore[arg-type]


def test_no_name_and_no_price_are_said() -> None:
    options = {"rank": None, "target_modules": None, "max_length": None, "micro_batch_size": None, "gpus": 1}
    with pytest.raises(RecipeError, match="no model"):
        answer(None, model="", method="lora", gpu=None, **options)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="a cost at inf an hour is beyond all numbers"):
        answer(None, model="8b", method="lora", gpu="h100", tokens=9, price_per_hour=float("inf"), **options)  # type: ignore[arg-type]


def test_the_answer_says_which_engine() -> None:
    options = {"rank": None, "target_modules": None, "max_length": None, "micro_batch_size": None, "gpus": 1}
    found = answer(None, model="8b", method="qlora", gpu=None, engine="transformers@4.48.1", upcast="all", **options)  # type: ignore[arg-type]
    assert found.as_json()["engine"] == "transformers@4.48.1"
    assert "qlora by transformers@4.48.1" in found.as_text()
    assert any("--upcast all" in line for line in found.assumptions)


def test_a_version_newer_than_what_was_read_says_so() -> None:
    options: dict[str, object] = dict.fromkeys(("rank", "target_modules", "max_length", "micro_batch_size", "gpu"))
    newer, read = (
        answer(None, model="1b", method="lora", gpus=1, engine=engine, **options)  # type: ignore[arg-type]
        for engine in ("transformers@5.99", "transformers@5.23.1")
    )
    assert newer.estimate == read.estimate
    assert any("the newest that was read" in line for line in newer.assumptions)
    assert not any("the newest that was read" in line for line in read.assumptions)
