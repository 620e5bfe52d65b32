"""As many layers stay unpacked as fit, the others are held in 4 bits, and only where that changes no number."""

from dataclasses import replace

import pytest

from lorafit.plan.advice import advise
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_by_name
from lorafit.plan.stack import Stack
from lorafit.plan.unpacked import why_packed, with_most_unpacked
from lorafit.plan.vram import answer
from lorafit.recipe.adapters import Lora
from lorafit.recipe.quantization import Fp4, Int8, Nf4, Unquantized

ASKED = MemoryQuestion(shape_by_name("llama-3-8b").shape, Lora(), Nf4(), max_length=4096)
LAYERS = len(ASKED.shape.layers)


def peak(question: MemoryQuestion) -> int:
    return estimate(question).peak_bytes


@pytest.mark.parametrize("asked", [ASKED, replace(ASKED, checkpointing=False), replace(ASKED, recomputed_layers=7)])
def test_the_largest_number_that_fits_is_taken(asked: MemoryQuestion) -> None:
    peaks = [peak(replace(asked, unpacked_layers=count)) for count in range(LAYERS + 1)]
    assert peaks == sorted(peaks)
    for capacity in (*peaks[:: LAYERS // 4], *(each - 1 for each in peaks[1 :: LAYERS // 4])):
        found = with_most_unpacked(asked, lambda more, room=capacity: peak(more) <= room)  # type: ignore[misc]
        assert found.unpacked_layers == max(count for count, each in enumerate(peaks) if each <= capacity)
    assert with_most_unpacked(asked, lambda _: False).unpacked_layers == 0


def test_all_of_them_unpacked_are_held_like_a_base_that_was_never_packed() -> None:
    unpacked, plain = replace(ASKED, unpacked_layers=LAYERS), replace(ASKED, quantization=Unquantized())
    assert peak(unpacked) == peak(plain)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quantization": Unquantized()}, "not in 4 bits"),
        ({"quantization": Int8()}, "not in 4 bits"),
        ({"quantization": Nf4(keep_unpacked="none")}, "recipe"),
        ({"quantization": Nf4(compute_dtype="float32")}, "float32"),
        ({"stack": Stack()}, "own linears"),
        ({"gpus": 2, "sharded": True}, "split"),
    ],
)
def test_what_would_change_a_number_stays_packed(changes: dict[str, object], why: str) -> None:
    asked = replace(ASKED, **changes)  # type: ignore[arg-type]
    assert why in why_packed(asked)
    assert with_most_unpacked(asked, lambda _: True) == asked


def test_fp4_and_a_dtype_that_is_the_models_may_be_unpacked() -> None:
    for bits in (Fp4(), Nf4(compute_dtype="bfloat16")):
        assert with_most_unpacked(replace(ASKED, quantization=bits), lambda _: True).unpacked_layers == LAYERS


def test_packing_again_is_among_the_advice() -> None:
    asked = replace(ASKED, unpacked_layers=LAYERS)
    saved = {advice.change: advice.saves_bytes for advice in advise(asked)}
    assert saved["quantization.keep_unpacked: none (the same result)"] == peak(asked) - peak(ASKED)


def test_a_name_alone_asks_for_the_least() -> None:
    asked = {"rank": None, "target_modules": None, "max_length": 512, "micro_batch_size": None, "gpus": 1}
    found = answer(None, model="8b", method="qlora", gpu="80GB", **asked)  # type: ignore[arg-type]
    assert found.question.unpacked_layers == 0
