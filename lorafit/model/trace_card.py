"""A card's semantics for fake tensors on a machine without one: what autocast casts, which kernels run.

Fake tensors cannot sit on a card that torch was not built for, so they sit on the CPU and this module makes up for
the difference: CUDA's list of float32 operations, fused dropout, the variable-length attention kernel, and the
questions by which PEFT and bitsandbytes find out where they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import nn
from torch.autograd import graph
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lorafit.model import attention, offload

# https://pytorch.org/docs/stable/amp.html: the CUDA operations that autocast to float32 and the CPU ones do not
# fmt: off
_FLOAT32_NAMES = (
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh",
    "tan", "pow", "softplus", "layer_norm", "group_norm", "cosine_similarity", "nll_loss", "cross_entropy", "kl_div",
    "l1_loss", "smooth_l1_loss", "mse_loss", "binary_cross_entropy_with_logits", "dist", "norm", "logsumexp", "prod",
    "softmax", "log_softmax", "cumprod", "cumsum",
)
# fmt: on


def _functions(name: str) -> set[Callable[..., Any]]:
    owners: tuple[Any, ...] = (torch, torch.Tensor, functional)
    return {getattr(owner, name) for owner in owners if hasattr(owner, name)}


FLOAT32_FUNCTIONS = frozenset(function for name in _FLOAT32_NAMES for function in _functions(name)) | {
    torch.Tensor.__pow__,
    torch.Tensor.__rpow__,
}


class AsOnCard(TorchFunctionMode):
    """Casts for CUDA's float32 list under autocast, and takes the fused dropout that keeps a byte a value."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is functional.dropout:
            return _fused_dropout(*args, **named)
        if func is torch.dropout:
            return _fused_dropout(args[0], args[1], named["train"])
        if func is torch._grouped_mm and args[0].dtype is not torch.bfloat16:
            return _GroupedProduct.apply(args[0], args[1], named["offs"])  # type: ignore[no-untyped-call]
        if func in (functional.linear, functional.layer_norm) and not _autocasts():
            _want_one_dtype(*args, *named.values())
        if func in FLOAT32_FUNCTIONS and _autocasts():
            args = tuple(_widened(x) for x in args)
            named = {key: _widened(x) for key, x in named.items()}
            with torch.autocast("cpu", enabled=False):
                return func(*args, **named)
        return func(*args, **named)


_is_autocast_enabled = torch.is_autocast_enabled


def _autocasts() -> bool:
    return _is_autocast_enabled("cpu")


def _want_one_dtype(*operands: object) -> None:
    """Refuse what a card refuses, and a fake tensor does not: a product or norm of two dtypes."""
    dtypes = {x.dtype for x in operands if isinstance(x, torch.Tensor)}
    if len(dtypes) > 1:
        named = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise TypeError(f"without autocast a card refuses a product or norm of {named}")


def _widened(x: object) -> object:
    return x.float() if isinstance(x, torch.Tensor) and x.dtype in (torch.bfloat16, torch.float16) else x


def _fused_dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    del inplace
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x


class _GroupedProduct(torch.autograd.Function):
    """A product of each group with its own matrix, which fake tensors know in bfloat16 only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weights: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        wanted = ctx.needs_input_grad
        ctx.save_for_backward(x if wanted[1] else None, weights if wanted[0] else None)
        ctx.shapes = x.shape, weights.shape
        return x.new_empty(x.shape[0], weights.shape[2])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        wanted = zip(ctx.shapes, ctx.needs_input_grad, strict=False)
        return *(gradients[0].new_empty(shape) if wants else None for shape, wants in wanted), None


def fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    attn_mask: torch.Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """FlashAttention in 16 bits; else the memory-efficient kernel, where a mask becomes a bias.

    That one knows no grouped keys on a card: torch then takes its formula, with every score written out.
    """
    narrow = query.dtype in (torch.bfloat16, torch.float16) and query.shape[3] == value.shape[3]
    if narrow and attn_mask is None:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return cast("torch.Tensor", flash(query, key, value, dropout_p, is_causal, scale=scale)[0])
    if enable_gqa:
        math = torch.ops.aten._scaled_dot_product_attention_math
        given = (query, key, value, attn_mask, dropout_p, is_causal)
        return cast("torch.Tensor", math(*given, scale=scale, enable_gqa=True)[0])
    bias = None
    if attn_mask is not None:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype).expand(*query.shape[:3], key.shape[2])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return cast("torch.Tensor", kernel(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0])


@contextmanager
def card_semantics(lengths: tuple[int, ...]) -> Iterator[None]:
    """Let libraries and lorafit's own attention take the way they take on a card; `lengths` are those of documents."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    def either(*device: str) -> bool:
        return _is_autocast_enabled(*device) or _autocasts()

    def has_kernel(query: torch.Tensor, dropout: float) -> bool:
        return query.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0

    def stay(self: object, *args: object, **settings: object) -> None:
        """Adapters are made where they belong, in float32."""

    def here(self: nn.Module, function: object, recurse: bool = True) -> nn.Module:
        """There is one device and one dtype; a fake parameter cannot be swapped for another."""
        return self

    def documents(bounds: torch.Tensor, *tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """Cut at lengths that need not be read from a tensor, which has no values here."""
        return list(zip(*(torch.split(tensor, list(lengths), dim=2) for tensor in tensors), strict=True))

    run_backward = graph._engine_run_backward

    def backward(*args: Any, **settings: Any) -> Any:
        """A call that the mode has seen runs without it; recomputation within must be seen again."""
        with AsOnCard():
            return run_backward(*args, **settings)

    with (
        patch.object(torch.autograd, "_engine_run_backward", backward),
        patch.object(nn.Module, "_apply", here),
        patch.object(torch, "is_autocast_enabled", either),
        patch.object(attention, "_has_varlen_kernel", has_kernel),
        patch.object(attention, "_documents", documents),
        patch.object(attention, "_takes_groups", lambda query: False),
        patch.object(offload, "to_host", lambda x, stream: torch.empty_like(x, device="meta")),
        patch.object(offload, "to_device", lambda host, device, stream: (torch.empty_like(host, device=device), None)),
        patch.object(attention, "scaled_dot_product_attention", fused_attention),
        patch.object(BaseTunerLayer, "_move_adapter_to_device_of_base_layer", stay),
        patch("peft.tuners.lora.dora.dequantize_module_weight", _unpacked),
        AsOnCard(),
    ):
        yield


def _unpacked(module: nn.Module) -> torch.Tensor:
    """Unpack a layer's weight as PEFT asks for it, which tells a packed one by a class that no fake tensor has."""
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant

    weight: Any = module.weight
    state, rows = getattr(weight, "quant_state", None), getattr(module, "state", None)
    unpacked: torch.Tensor = weight
    if state is not None:
        unpacked = dequantize_4bit(weight.data, state)
    elif rows is not None:
        unpacked = int8_vectorwise_dequant(weight.data, cast("Any", rows).SCB)
    return unpacked
