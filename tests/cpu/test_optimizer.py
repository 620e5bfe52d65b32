"""A restored optimizer is the same optimizer, bit for bit, however the trained tensors lie; a failed step is none."""

from typing import get_args

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from lorafit.errors import ResumeRefused
from lorafit.model.trained import Trained
from lorafit.recipe.optimizers import OPTIMIZERS, OptimizerName
from lorafit.recipe.schema import TrainingSpec
from lorafit.train.optimizer import build_optimizer, optimizer_tensors, paging_notice, restore_optimizer, update

CPU = torch.device("cpu")
# the second is above bitsandbytes' limit for 8 bits; of sizes that are no multiple of 16 torch's kernel takes the rest
# by other instructions where a tensor ends there, and that rest may differ in its last bit from a flat one's
SHAPES = {"small": (4, 8), "large": (64, 96)}
KINDS = [(name, flat) for name in get_args(OptimizerName) for flat in (False, True)[: 1 + OPTIMIZERS[name].takes_flat]]
every_kind = pytest.mark.parametrize(("name", "flat"), KINDS)


def some(*, flat: bool) -> Trained:
    generator = torch.Generator().manual_seed(0)
    named = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}
    return Trained(named, flat=flat)


def copied(trained: Trained, *, flat: bool) -> Trained:
    return Trained({n: nn.Parameter(p.detach().clone()) for n, p in trained.named.items()}, flat=flat)


def draw_gradients(trained: Trained, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for value in trained.named.values():
        value.grad = torch.randn(value.shape, generator=generator)
    trained.gather()


def take_steps(optimizer: torch.optim.Optimizer, trained: Trained, steps: range) -> None:
    for step in steps:
        draw_gradients(trained, step)
        trained.clip(1.0)
        update(optimizer, torch.zeros(()))
        trained.zero_grad()


@every_kind
@pytest.mark.parametrize("saved_flat", [False, True])
def test_going_on_from_a_saved_state_equals_never_stopping(name: OptimizerName, flat: bool, saved_flat: bool) -> None:
    """Also where the state was saved under the other layout: the files are the same."""
    saved_flat = saved_flat and OPTIMIZERS[name].takes_flat
    training = TrainingSpec(optimizer=name, learning_rate=0.01, weight_decay=0.1)
    straight = some(flat=saved_flat)
    optimizer = build_optimizer(straight, training, CPU)
    take_steps(optimizer, straight, range(3))
    saved = save(optimizer_tensors(optimizer, straight))
    resumed = copied(straight, flat=flat)
    take_steps(optimizer, straight, range(3, 6))

    before = {n: p.detach().clone() for n, p in resumed.named.items()}
    again = build_optimizer(resumed, training, CPU)
    restore_optimizer(again, resumed, load(saved))
    assert all(torch.equal(resumed.named[n], before[n]) for n in before), "restoring moved a weight"
    take_steps(again, resumed, range(3, 6))
    for shape in SHAPES:
        assert torch.equal(straight.named[shape], resumed.named[shape])
    assert save(optimizer_tensors(again, resumed)) == save(optimizer_tensors(optimizer, straight))


@every_kind
def test_a_failed_step_moves_neither_weights_nor_moments(name: OptimizerName, flat: bool) -> None:
    trained = some(flat=flat)
    optimizer = build_optimizer(trained, TrainingSpec(optimizer=name, weight_decay=0.1), CPU)
    take_steps(optimizer, trained, range(2))
    weights, state = copied(trained, flat=False), save(optimizer_tensors(optimizer, trained))
    draw_gradients(trained, 2)
    trained.named["small"].grad[0, 0] = float("nan")  # type: ignore[index]
    update(optimizer, torch.ones(()))
    assert all(torch.equal(weights.named[n], p) for n, p in trained.named.items())
    assert save(optimizer_tensors(optimizer, trained)) == state


def test_flat_parameters_are_views_of_one_tensor_and_so_are_their_gradients() -> None:
    loose, flat = some(flat=False), some(flat=True)
    assert flat.whole is not None
    for name, parameter in flat.named.items():
        assert torch.equal(parameter, loose.named[name])
        assert parameter.untyped_storage().data_ptr() == flat.whole.untyped_storage().data_ptr()
    for passes in (1, 2):  # the second adds to what the first has laid flat
        nn.functional.linear(torch.ones(7, 96), flat.named["large"]).sum().backward()
        flat.gather()
        assert flat.whole.grad is not None
        assert flat.whole.grad.sum() == flat.named["large"].grad.sum() == passes * 7 * 64 * 96  # type: ignore[union-attr]
    assert not flat.named["small"].grad.any(), "what no pass reaches has a gradient of zero"  # type: ignore[union-attr]
    flat.zero_grad()
    assert all(tensor.grad is None for tensor in [flat.whole, *flat.named.values()])


def test_a_gradient_is_clipped_as_torch_clips_it() -> None:
    trained, plain = some(flat=True), some(flat=False)
    draw_gradients(trained, 0)
    draw_gradients(plain, 0)
    norm = nn.utils.clip_grad_norm_(list(plain.named.values()), 1.0)
    assert torch.equal(trained.clip(1.0), norm)
    assert all(torch.equal(p.grad, plain.named[n].grad) for n, p in trained.named.items())  # type: ignore[arg-type]


def test_eight_bit_moments_are_eight_bit_where_bitsandbytes_makes_them_so() -> None:
    values = some(flat=False)
    optimizer = build_optimizer(values, TrainingSpec(optimizer="adamw_8bit"), CPU)
    take_steps(optimizer, values, range(1))
    tensors = optimizer_tensors(optimizer, values)
    assert tensors["large|state1"].dtype == torch.uint8
    assert tensors["small|state1"].dtype == torch.float32


def test_the_state_of_other_parameters_is_refused() -> None:
    values = some(flat=True)
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
