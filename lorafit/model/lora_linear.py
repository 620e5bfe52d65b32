"""A linear with a LoRA update, y = W x + s B A x, whose backward keeps x once and nothing of the frozen weight.

W is frozen, so the gradient of x needs W and not x; of the three matrices only A asks for x. Autograd would keep x
for every adapter, in a copy of its own dtype; here all that read the same x keep the same tensor, and beside it A x,
as narrow as the rank. A packed weight is unpacked in the backward again, and a dropout mask drawn again.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from lorafit.model.remake import source_of


@dataclass(frozen=True, slots=True)
class Update:
    """s B A with A [rank, in] and B [out, rank], behind a dropout of its own."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    dropout: float = 0.0  # share of x zeroed; 0 outside training


def lora_linear(x: torch.Tensor, frozen: nn.Module, update: Update) -> torch.Tensor:
    """Give W x + bias + s B A x, [..., in] to [..., out], in the dtype of x; `frozen` holds W and the bias.

    A and B may be of another dtype, that of a master copy: they compute in the dtype of x, and their gradients come
    back in their own. Dropout zeroes what `torch.nn.functional.dropout` would zero from the same random state.
    """
    out = _LoraLinear.apply(x, update.a, update.b, frozen, update.scale, update.dropout)  # type: ignore[no-untyped-call]
    return cast("torch.Tensor", out)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, frozen: nn.Module, scale: float, dropout: float
    ) -> torch.Tensor:
        out: torch.Tensor = frozen(x).to(x.dtype)
        ctx.frozen, ctx.scale, ctx.dropout = frozen, scale / (1 - dropout), dropout
        rows = rows_of(x)
        if dropout:
            ctx.random = random_state(x.device)
            rows, _ = with_zeros(rows, dropout)
        narrow = torch.mm(rows, a.to(x.dtype).t())
        rows_of(out).addmm_(narrow, b.to(x.dtype).t(), alpha=ctx.scale)
        ctx.remake, kept = source_of(x)
        if ctx.remake is not None:
            ctx.remake.expect()
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.save_for_backward(narrow, a, b, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, received: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        narrow, a, b, *kept = ctx.saved_tensors
        gradient, mask = rows_of(received), None
        narrow_gradient = torch.mm(gradient, b.to(ctx.dtype)).mul_(ctx.scale)
        of_b = torch.mm(gradient.t(), narrow).mul_(ctx.scale).to(b.dtype) if ctx.needs_input_grad[2] else None
        rows = rows_of(kept[0] if ctx.remake is None else ctx.remake(*kept))
        if ctx.dropout:
            rows, mask = dropped_again(rows, ctx.dropout, ctx.random)
        of_a = torch.mm(narrow_gradient.t(), rows).to(a.dtype) if ctx.needs_input_grad[1] else None
        del rows
        if not ctx.needs_input_grad[0]:
            return None, of_a, of_b, None, None, None
        of_x = torch.mm(gradient, frozen_weight(ctx.frozen, ctx.dtype))
        if mask is None:
            of_x.addmm_(narrow_gradient, a.to(ctx.dtype))
        else:
            of_x.add_(torch.mm(narrow_gradient, a.to(ctx.dtype)).mul_(mask))
        return of_x.view(ctx.shape), of_a, of_b, None, None, None


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """Give [..., width] as [tokens, width]."""
    return x.reshape(-1, x.shape[-1])


def frozen_weight(module: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """Give the weight of a linear of torch, transformers or bitsandbytes as [out, in], unpacked if it is packed."""
    weight: Any = module.weight
    if isinstance(module, Conv1D):
        return cast("torch.Tensor", weight.t().to(dtype))
    state = getattr(weight, "quant_state", None) or getattr(module, "quant_state", None)  # a gathered weight has none
    if state is not None:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state).to(dtype)
    packed: Any = getattr(module, "state", None)
    if packed is not None:  # int8: 127ths of the scale of their row, as bitsandbytes' own backward has it
        if packed.CB is None:  # before the layer's first product
            module.init_8bit_state()  # type: ignore[operator]
        return cast("torch.Tensor", packed.CB.to(dtype, copy=True).mul_(packed.SCB.unsqueeze(1).mul(1.0 / 127.0)))
    return cast("torch.Tensor", weight.to(dtype))


def with_zeros(x: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Zero a share of x; unlike `torch.nn.functional.dropout`, leave the rest as it is: 1 / (1 - share) goes into s.

    Multiplied by it in 16 bits, every value would be rounded once more.
    """
    dropped, mask = torch.native_dropout(x, share, train=True)
    return torch.mul(x, mask, out=dropped), mask


def dropped_again(x: torch.Tensor, share: float, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop the values that were dropped from this random state, and leave the generator as it is."""
    now = random_state(x.device)
    _set_random_state(x.device, state)
    again = with_zeros(x, share)
    _set_random_state(x.device, now)
    return again


def random_state(device: torch.device) -> torch.Tensor:
    """Give the state of the generator of a device."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
