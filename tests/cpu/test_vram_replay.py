"""The step of plain transformers, traced for published runs: against the estimate, and on a card too small."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from lorafit.plan.allocator import CardFull, replay
from lorafit.plan.beside import IDS_BYTES, positions
from lorafit.plan.find_shape import find_shape
from lorafit.plan.memory import WORKSPACE_BYTES, estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.stack import Stack
from lorafit.plan.unroll import Recording
from lorafit.recipe.adapters import Full, Lora
from lorafit.recipe.quantization import Nf4, Unquantized
from scripts.vram_replay import HEAD, first_step, recurring, replayed

TINY = "builtin:tiny"
ROOM = 2**40
MIB = 2**20


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


@pytest.mark.slow
def test_a_tied_head_stays_one_with_its_embedding() -> None:
    question = MemoryQuestion(find_shape(TINY).shape, Full(), Unquantized(), max_length=64, accumulation=False)
    question = replace(question, stack=Stack((4, 48, 1), amp=False, kernel="flash_attention_2"))
    allocated, _ = replayed(TINY, question, ROOM)
    assert allocated - WORKSPACE_BYTES == pytest.approx(estimate(question).peak_bytes - WORKSPACE_BYTES, rel=0.02)


def test_positions_are_those_of_one_row_as_transformers_makes_them() -> None:
    shape, made = find_shape(TINY).shape, []
    model = LlamaModel(LlamaConfig(**(find_shape(TINY).config | {"num_hidden_layers": 1, "dtype": torch.bfloat16})))
    model.rotary_emb.register_forward_hook(lambda module, inputs, tables: made.extend(tables))
    model.to(torch.bfloat16)(input_ids=torch.zeros(3, 16, dtype=torch.long))
    question = MemoryQuestion(shape, Lora(), Unquantized(), max_length=16, micro_batch_size=3, stack=Stack())
    assert positions(question).bytes - 48 * IDS_BYTES == sum(table.nbytes for table in made)


def recorded(states: int, *sizes: int) -> Recording:
    """A step of tensors that come and go one after another, in MiB."""
    step = [event for number, size in enumerate(sizes, 2) for event in ((number, size * MIB), (number, 0))]
    phases = [(0, "forward of layer 0"), (2, HEAD), (len(step), "optimizer step")]
    return Recording([(0, 20 * MIB)], [(1, states * MIB)], step, phases, {}, 1)


def test_of_a_card_that_fills_once_what_is_held_from_then_on_is_read() -> None:
    found, capacity = recorded(44, 20, 25, 39), 137 * MIB
    steps = [*found.weights, *first_step(found), *found.step, *found.step]
    assert recurring(found, capacity)[1] == replay(steps[: -len(found.step)], capacity).reserved
    assert recurring(found, capacity)[1] < replay(steps, capacity).peak_reserved
    assert recurring(found, ROOM)[1] == replay(steps, ROOM).peak_reserved  # which nothing is given back of
