"""A restored optimizer is the same optimizer, bit for bit."""

from typing import get_args

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from lorafit.errors import ResumeRefused
from lorafit.recipe.optimizers import OptimizerName
from lorafit.recipe.schema import TrainingSpec
from lorafit.train.optimizer import build_optimizer, optimizer_tensors, paging_notice, restore_optimizer

CPU = torch.device("cpu")
SHAPES = {"small": (3, 5), "large": (64, 96)}  # the second is above bitsandbytes' limit for 8 bits


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def take_steps(optimizer: torch.optim.Optimizer, values: dict[str, nn.Parameter], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(100 + step)
        for value in values.values():
            value.grad = torch.randn(value.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_going_on_from_a_saved_state_equals_never_stopping(name: OptimizerName) -> None:
    training = TrainingSpec(optimizer=name, learning_rate=0.01, weight_decay=0.1)
    straight = parameters()
    optimizer = build_optimizer(straight, training, CPU)
    take_steps(optimizer, straight, range(3))
    saved = save(optimizer_tensors(optimizer, straight))
    weights = {n: p.detach().clone() for n, p in straight.items()}
    take_steps(optimizer, straight, range(3, 6))

    resumed = {n: nn.Parameter(w) for n, w in weights.items()}
    again = build_optimizer(resumed, training, CPU)
    restore_optimizer(again, resumed, load(saved))
    assert all(torch.equal(resumed[n], weights[n]) for n in weights), "restoring moved a weight"
    take_steps(again, resumed, range(3, 6))
    for shape in SHAPES:
        assert torch.equal(straight[shape], resumed[shape])


def test_eight_bit_moments_are_eight_bit_where_bitsandbytes_makes_them_so() -> None:
    values = parameters()
    optimizer = build_optimizer(values, TrainingSpec(optimizer="adamw_8bit"), CPU)
    take_steps(optimizer, values, range(1))
    tensors = optimizer_tensors(optimizer, values)
    assert tensors["large|state1"].dtype == torch.uint8
    assert tensors["small|state1"].dtype == torch.float32


def test_the_state_of_other_parameters_is_refused() -> None:
    values = parameters()
    optimizer = build_optimizer(values, TrainingSpec(), CPU)
    take_steps(optimizer, values, range(1))
    tensors = optimizer_tensors(optimizer, values)
    renamed = {key.replace("small", "other"): tensor for key, tensor in tensors.items()}
    with pytest.raises(ResumeRefused, match="other parameters"):
        restore_optimizer(build_optimizer(values, TrainingSpec(), CPU), values, renamed)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_a_paged_optimizer_says_that_it_runs_unpaged_here(name: OptimizerName) -> None:
    notice = paging_notice(TrainingSpec(optimizer=name), CPU)
    assert (notice is not None) == name.startswith("paged")
