"""The optimizer, its learning rate, and its state as named tensors that a safetensors file can hold."""

from collections.abc import Mapping

import torch
from torch import nn

from lorafit.errors import MachineError, ResumeRefused
from lorafit.recipe.optimizers import OPTIMIZERS
from lorafit.recipe.schema import TrainingSpec

BETAS = (0.9, 0.999)
EPSILON = 1e-8
SEPARATOR = "|"  # between a parameter's name and its state's: no module name holds one


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], training: TrainingSpec, device: torch.device
) -> torch.optim.Optimizer:
    """Make the recipe's AdamW over the trained parameters, in their order. MachineError without bitsandbytes."""
    kind = OPTIMIZERS[training.optimizer]
    values = list(parameters.values())
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


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Give the state as `parameter|key` tensors on the host; plain numbers become 0-d tensors."""
    return {
        name + SEPARATOR + key: torch.as_tensor(value).detach().to("cpu", copy=True).contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Put a saved state back, tensor for tensor. ResumeRefused when it belongs to other parameters."""
    _make_state(optimizer, parameters)
    expected = set(optimizer_tensors(optimizer, parameters))
    if expected != set(tensors):
        raise ResumeRefused(
            "the checkpoint's optimizer state belongs to other parameters",
            fix="start anew with --fresh",
            code="E10-OPTIMIZER",
        )
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        for key, value in state.items():
            saved = tensors[name + SEPARATOR + key]
            if isinstance(value, torch.Tensor):
                value.copy_(saved)  # in place: a paged moment stays in paged memory
            else:
                state[key] = type(value)(saved.item())


def _make_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Let the optimizer lay out its state as it does in its first step, by a step that changes nothing.

    With a zero gradient and a zero rate neither AdamW moves a weight, and what the step writes into the
    state is overwritten by the restore.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    set_learning_rate(optimizer, 0.0)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
