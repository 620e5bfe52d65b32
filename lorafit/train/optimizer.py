"""The optimizer, its learning rate, and its state as named tensors that a safetensors file can hold."""

from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

import torch

from lorafit.errors import MachineError, ResumeRefused
from lorafit.model.trained import Trained
from lorafit.recipe.optimizers import OPTIMIZERS
from lorafit.recipe.schema import TrainingSpec

BETAS = (0.9, 0.999)
EPSILON = 1e-8
SEPARATOR = "|"  # between a parameter's name and its state's: no module name holds one


def build_optimizer(trained: Trained, training: TrainingSpec, device: torch.device) -> torch.optim.Optimizer:
    """Make the recipe's AdamW over what is trained. MachineError without bitsandbytes."""
    kind = OPTIMIZERS[training.optimizer]
    values = trained.tensors
    on_card = device.type == "cuda"
    if kind.bits == 32 and not (kind.paged and on_card):
        return torch.optim.AdamW(
            values,
            lr=training.learning_rate,
            betas=BETAS,
            eps=EPSILON,
            weight_decay=training.weight_decay,
            fused=True,
        )
    try:
        from bitsandbytes.optim import AdamW
    except ImportError as error:
        raise MachineError(
            f"{training.optimizer} needs bitsandbytes, which does not load here: {error}",
            where="training.optimizer",
            fix="set training.optimizer: adamw",
            code="E5-BITSANDBYTES",
        ) from None
    optimizer: torch.optim.Optimizer = AdamW(
        values,
        lr=training.learning_rate,
        betas=BETAS,
        eps=EPSILON,
        weight_decay=training.weight_decay,
        optim_bits=kind.bits,
        is_paged=kind.paged and on_card,
    )
    return optimizer


def paging_notice(training: TrainingSpec, device: torch.device) -> str | None:
    """Say when a paged optimizer runs unpaged: paging moves moments between card and host, and there is no card."""
    if OPTIMIZERS[training.optimizer].paged and device.type == "cpu":
        unpaged = training.optimizer.removeprefix("paged_")
        return f"{training.optimizer} runs as {unpaged}: there is no GPU to page from (same numbers)"
    return None


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def update(optimizer: torch.optim.Optimizer, failed: torch.Tensor) -> None:
    """Apply the gradients, or, where `failed` (0-d float32 on the device) is 1, change neither weights nor moments.

    torch's kernel looks at the flag by itself. bitsandbytes' do not: it is read, which waits for the device.
    """
    if isinstance(optimizer, torch.optim.AdamW):
        optimizer.found_inf = failed  # type: ignore[attr-defined]
        optimizer.step()
    elif not failed:
        optimizer.step()


def optimizer_tensors(optimizer: torch.optim.Optimizer, trained: Trained) -> dict[str, torch.Tensor]:
    """Give the state as `parameter|key` tensors on the host, however it is laid out; numbers become 0-d tensors."""
    return {
        name + SEPARATOR + key: torch.as_tensor(value).detach().to("cpu", copy=True).contiguous()
        for name, state in _states(optimizer, trained)
        for key, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, trained: Trained, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put a saved state back, tensor for tensor. ResumeRefused when it belongs to other parameters."""
    _make_state(optimizer, trained)
    expected = {name + SEPARATOR + key for name, state in _states(optimizer, trained) for key in state}
    if expected != set(tensors):
        raise ResumeRefused(
            "the checkpoint's optimizer state belongs to other parameters",
            fix="start anew with --fresh",
            code="E10-OPTIMIZER",
        )
    for name, state in _states(optimizer, trained):
        for key, value in state.items():
            saved = tensors[name + SEPARATOR + key]
            if isinstance(value, torch.Tensor):
                value.copy_(saved)  # in place: a paged moment stays in paged memory
            else:
                optimizer.state[trained.named[name]][key] = type(value)(saved.item())


def _states(optimizer: torch.optim.Optimizer, trained: Trained) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each parameter's name and state; of a flat one its part of each moment, and the count of steps."""
    if trained.whole is None:
        yield from ((name, optimizer.state[parameter]) for name, parameter in trained.named.items())
        return
    parts = {name: dict[str, Any]() for name in trained.named}
    for key, value in optimizer.state[trained.whole].items():
        values = trained.views(value) if value.dim() else repeat(value)
        for name, part in zip(parts, values, strict=False):
            parts[name][key] = part
    yield from parts.items()


def _make_state(optimizer: torch.optim.Optimizer, trained: Trained) -> None:
    """Let the optimizer lay out its state as it does in its first step, by a step that changes nothing.

    With a zero gradient and a zero rate neither AdamW moves a weight, and what the step writes into the
    state is overwritten by the restore.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    set_learning_rate(optimizer, 0.0)
    for tensor in trained.tensors:
        tensor.grad = torch.zeros_like(tensor)
    optimizer.step()
    trained.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
