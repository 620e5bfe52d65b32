"""A base that is split over processes: what each holds, what it gathers, and what two cards have shown."""

from dataclasses import replace
from typing import Any

import pytest

from lorafit.plan.advice import advise
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_by_name
from lorafit.plan.stack import Stack
from lorafit.plan.vram import answer
from lorafit.recipe.adapters import Dora, Lora
from lorafit.recipe.quantization import Nf4, Unquantized

OPTIONS: dict[str, Any] = {"rank": None, "target_modules": None, "max_length": None, "micro_batch_size": None}


def ask(model: str = "llama-3.1-8b", **settings: Any) -> MemoryQuestion:
    return replace(MemoryQuestion(shape_by_name(model).shape, Lora(), Nf4()), **settings)


def weights(question: MemoryQuestion) -> int:
    names = ("linear weights", "embedding", "norms", "experts")
    return sum(part.bytes for part in estimate(question).components if part.name.startswith(names))


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_in_16_bits_each_holds_its_share_of_all_weights(gpus: int) -> None:
    question = ask(quantization=Unquantized(), gpus=gpus)
    assert weights(replace(question, sharded=True)) == pytest.approx(weights(question) / gpus, abs=8)


def test_scales_and_a_shared_table_stay_whole() -> None:
    halves = ask(gpus=2)
    saved = weights(halves) - weights(replace(halves, sharded=True))
    shape = halves.shape
    assert saved == pytest.approx(
        shape.linear_parameters / 4 + shape.embedding_parameters + shape.other_parameters, abs=8
    )
    tied = ask("llama-3.2-1b", gpus=2)
    packed = tied.shape.linear_parameters / 4 + tied.shape.other_parameters
    assert weights(tied) - weights(replace(tied, sharded=True)) == pytest.approx(packed, abs=8)


def test_the_more_processes_the_less_each_holds_and_never_less_than_it_gathers() -> None:
    peaks = [estimate(ask("llama-3.1-70b", gpus=n, sharded=True)).peak_bytes for n in (2, 3, 4, 8, 64)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] > 2 * 128_256 * 8_192 * 2  # the head, and the buffer in which it arrives


# GB, of each of two cards: foundation-model-stack/fms-acceleration, full shard, rank 16 on attention, rows of 4,096
SEEN = [("ibm/PowerLM-3b", Unquantized(), 2, 10.322), ("ibm/PowerLM-3b", Unquantized(), 4, 16.82),
        ("ibm/PowerLM-3b", Nf4(), 2, 7.827), ("ibm/PowerLM-3b", Nf4(), 4, 14.32)]  # fmt: skip


@pytest.mark.parametrize(("model", "quantization", "rows", "gigabytes"), SEEN)
def test_it_is_what_two_cards_have_shown(model: str, quantization: Any, rows: int, gigabytes: float) -> None:
    attention = Lora(rank=16, dropout=0.1, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    asked = ask(model, adapter=attention, quantization=quantization, max_length=4096, micro_batch_size=rows, gpus=2)
    amp = not isinstance(quantization, Unquantized)
    stack = Stack((4, 45, 2), amp=amp, kernel="flash_attention_2")
    found = estimate(replace(asked, sharded=True, accumulation=False, stack=stack))
    assert found.peak_bytes / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_auto_splits_what_does_not_fit_whole() -> None:
    asked = {"model": "70b", "method": "qlora", **OPTIONS}
    assert answer(None, gpus=2, gpu="40GB", **asked).question.sharded
    assert not answer(None, gpus=2, gpu="48GB", **asked).question.sharded
    assert not answer(None, gpus=2, gpu="40GB", sharding="none", **asked).question.sharded
    assert answer(None, gpus=2, gpu=None, sharding="full", **asked).question.sharded
    assert not answer(None, gpus=1, gpu=None, sharding="full", **asked).question.sharded


def test_splitting_is_advised_where_it_can_be_done() -> None:
    change = "training.sharding: full"
    assert change in [each.change for each in advise(ask(gpus=2))]
    for other in (ask(), ask(gpus=2, sharded=True), ask(gpus=2, adapter=Dora())):
        assert change not in [each.change for each in advise(other)]
