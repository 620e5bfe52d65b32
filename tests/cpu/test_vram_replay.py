"""The step of plain transformers, traced for published runs: against the estimate, and on a card too small."""

from dataclasses import replace

import pytest

from lorafit.plan.allocator import CardFull
from lorafit.plan.find_shape import find_shape
from lorafit.plan.memory import WORKSPACE_BYTES, estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.stack import Stack
from lorafit.recipe.adapters import Lora
from lorafit.recipe.quantization import Nf4, Unquantized
from scripts.vram_replay import replayed

TINY = "builtin:tiny"
ROOM = 2**40


SLOW = [pytest.param(version, marks=pytest.mark.slow) for version in ((4, 45, 2), (5, 23))]


@pytest.mark.parametrize("version", [(4, 48, 1), *SLOW])
def test_each_version_holds_what_its_loss_held(version: tuple[int, ...]) -> None:
    shape = find_shape(TINY).shape
    question = MemoryQuestion(shape, Lora(), Unquantized(), max_length=2048, micro_batch_size=2, accumulation=False)
    question = replace(question, stack=Stack(version, kernel="flash_attention_2"))
    allocated, reserved = replayed(TINY, question, ROOM)
    assert allocated == pytest.approx(estimate(question).peak_bytes, rel=0.03)
    assert allocated <= reserved


def test_a_card_that_is_too_small() -> None:
    question = MemoryQuestion(find_shape(TINY).shape, Lora(), Nf4(), max_length=512, stack=Stack(upcast="norms"))
    with pytest.raises(CardFull):
        replayed(TINY, replace(question, accumulation=False), 2 * WORKSPACE_BYTES)
