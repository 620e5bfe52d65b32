"""A linear with a DoRA update, y = m / n * (W + s B A) x, whose backward keeps no weight (arXiv 2402.09353).

n are the norms of the rows of W + s B A, taken as constant (section 4.3). Built on the spot, as PEFT does, that sum is
several matrices as large as W. Its norms come of less: |w + u|^2 = |w|^2 + 2 w.u + |u|^2, where the first never
changes, w.u asks for W A^T, as if A were a few more tokens, and |u|^2 for A A^T.
"""

from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from lorafit.model.lora_linear import Update, dropped_again, frozen_weight, random_state, rows_of, with_zeros
from lorafit.model.remake import source_of


def dora_linear(
    x: torch.Tensor, frozen: nn.Module, update: Update, magnitude: torch.Tensor, squares: torch.Tensor
) -> torch.Tensor:
    """Give m / n * (W + s B A) x + bias, [..., in] to [..., out], in the dtype of x; `frozen` holds W and the bias.

    `magnitude` is m, [out], in float32; `squares` are the `row_squares` of W. Under dropout it is PEFT's
    W x + (m / n - 1) * W d + m / n * s B A d with d made of x by `torch.nn.functional.dropout`. A W in 8 bits is
    unpacked for all of it, where bitsandbytes would round x to 8 bits too.
    """
    out = _DoraLinear.apply(x, update.a, update.b, magnitude, squares, frozen, update.scale, update.dropout)  # type: ignore[no-untyped-call]
    return cast("torch.Tensor", out)


def row_squares(weight: torch.Tensor) -> torch.Tensor:
    """Give |w|^2 of each row w of [out, in], in float32 or wider."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    norms: torch.Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=wide)
    return norms.square_()


def row_norms(
    weight: torch.Tensor, squares: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
) -> torch.Tensor:
    """Give the norms of the rows of W + s B A, [out], in the dtype of `squares`.

    Where an update takes nearly all of a row away, what is left is the rounding of large terms: a row counts as no
    shorter than 1/1000 of what it was. At 1/10 the error in float32 is 1e-5.
    """
    across = torch.mm(weight, a.t()).to(squares.dtype)
    a, b = a.to(squares.dtype), b.to(squares.dtype)
    with torch.autocast(a.device.type, enabled=False):
        across.mul_(2).addmm_(b, torch.mm(a, a.t()), alpha=scale)
    return across.mul_(b).sum(1).mul_(scale).add_(squares).clamp_(min=squares * 1e-6).sqrt_()


class _DoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, magnitude: torch.Tensor, squares: torch.Tensor,
        frozen: Any, scale: float, dropout: float,
    ) -> torch.Tensor:  # fmt: skip
        ctx.frozen, ctx.scale, ctx.more = frozen, scale / (1 - dropout), 1 / (1 - dropout)
        ctx.shape, ctx.dtype, ctx.dropout = x.shape, x.dtype, dropout
        weight, bias, rows, out = frozen_weight(frozen, x.dtype), frozen.bias, rows_of(x), None
        if dropout:
            out, ctx.random = torch.mm(rows, weight.t()), random_state(x.device)
            rows = with_zeros(rows, dropout)[0]
        whole = torch.mm(rows, weight.t())
        if out is not None:
            out.sub_(whole, alpha=ctx.more)
        cast_a, cast_b = a.to(x.dtype), b.to(x.dtype)
        narrow = torch.mm(rows, cast_a.t())
        whole.addmm_(narrow, cast_b.t(), alpha=scale)
        norms = row_norms(weight, squares, cast_a, cast_b, scale)
        del rows, weight, cast_a, cast_b
        ctx.keeps_output = out is None and bias is None
        scaled = (whole if ctx.keeps_output else whole.clone()).mul_(magnitude / norms * ctx.more)
        out = scaled if out is None else out.add_(scaled)
        if bias is not None:
            out.add_(bias)
        out = out.view(*x.shape[:-1], -1)
        ctx.remake, kept = source_of(x)
        if ctx.remake is not None:
            ctx.remake.expect()
        ctx.save_for_backward(narrow, out if ctx.keeps_output else whole, a, b, magnitude, norms, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, received: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        narrow, result, a, b, magnitude, norms, *kept = ctx.saved_tensors
        gradient, mask = rows_of(received), None
        rows = rows_of(kept[0] if ctx.remake is None else ctx.remake(*kept))  # whose making takes room
        if ctx.dropout:
            rows, mask = dropped_again(rows, ctx.dropout, ctx.random)
        # what is kept is m / n times as large where it is the output, which others may keep too
        whole = gradient * rows_of(result)
        of_m = whole.sum(0, dtype=norms.dtype).div_(magnitude if ctx.keeps_output else norms / ctx.more)
        whole = torch.mul(gradient, magnitude / norms, out=whole)
        narrow_gradient = torch.mm(whole, b.to(ctx.dtype)).mul_(ctx.scale)
        of_b = torch.mm(whole.t(), narrow).mul_(ctx.scale).to(b.dtype) if ctx.needs_input_grad[2] else None
        of_a = torch.mm(narrow_gradient.t(), rows).to(a.dtype) if ctx.needs_input_grad[1] else None
        del rows
        of_x = _of_x(ctx, gradient, whole, narrow_gradient, a, mask) if ctx.needs_input_grad[0] else None
        return of_x, of_a, of_b, of_m.to(magnitude.dtype), None, None, None, None


def _of_x(
    ctx: Any, gradient: torch.Tensor, whole: torch.Tensor, narrow: torch.Tensor, a: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Give the gradient of x, of those of y, of (W + s B A) d and of A d."""
    weight = frozen_weight(ctx.frozen, ctx.dtype)
    if mask is None:
        return torch.mm(whole, weight).addmm_(narrow, a.to(ctx.dtype)).view(ctx.shape)
    of_dropped = torch.mm(whole.sub_(gradient), weight).addmm_(narrow, a.to(ctx.dtype), beta=ctx.more)
    return torch.mm(gradient, weight).add_(of_dropped.mul_(mask)).view(ctx.shape)
