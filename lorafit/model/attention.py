"""Causal attention inside each document of a flat row: no document sees another, no S x S mask exists."""

from collections.abc import Callable
from functools import cache, partial
from inspect import signature
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

FUSED = "lorafit_documents"
EXPLICIT = "lorafit_documents_eager"


def register() -> None:
    """Make both kernels known to transformers, for `set_attn_implementation`.

    And no builder of masks: the boundaries say it all, and where there is one transformers asks the device in every
    pass whether rows are packed.
    """
    for name, kernel in ((FUSED, documents_attention), (EXPLICIT, partial(documents_attention, explicit=True))):
        AttentionInterface.register(name, kernel)


def documents_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    explicit: bool = False,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within documents, causally, by fused kernels where the model's scores allow it.

    query [1, heads, S, d], key and value [1, kv_heads, S, d]; document i is
    `cu_seq_lens_q[i] : cu_seq_lens_q[i + 1]`. `explicit` writes every score out (`model.attention: eager`).
    Gives [1, S, heads, d], as transformers expects.
    """
    assert attention_mask is None
    assert cu_seq_lens_q is not None and max_length_q is not None, (
        "its layers do not tell attention where documents end"
    )
    query, key, value = as_autocast(query, key, value)
    changes = _score_changes(others)
    explicit = explicit or any(change is not None for change in changes.values())
    if not explicit and _has_varlen_kernel(query, dropout) and query.shape[3] == value.shape[3]:
        return _varlen(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window), None
    parts = [
        _explicit(q, k, v, scaling, dropout, sliding_window, **changes)
        if explicit
        else _fused(q, k, v, scaling, dropout, sliding_window)
        for q, k, v in _documents(cu_seq_lens_q, query, key, value)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def as_autocast(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Bring to the 16 bits of autocast, as every product would: a float32 stream turns queries to float32."""
    device = tensors[0].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return [x.to(dtype or x.dtype) for x in tensors]


def _score_changes(others: dict[str, Any]) -> dict[str, Any]:
    """What some architectures do to their scores: Gemma 2 caps them, gpt-oss adds a sink to each head."""
    return {"softcap": others.get("softcap"), "sinks": others.get("s_aux")}


def _documents(bounds: torch.Tensor, *tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Cut [1, heads, S, d] tensors into documents."""
    lengths = bounds.diff().tolist()
    return list(zip(*(torch.split(tensor, lengths, dim=2) for tensor in tensors), strict=True))


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    if not _takes_groups(query):
        key, value = _repeated(query, key, value)
    attend = partial(
        scaled_dot_product_attention, scale=scaling, dropout_p=dropout, enable_gqa=query.shape[1] != key.shape[1]
    )
    length = query.shape[2]
    if window is None or window >= length:
        return attend(query, key, value, is_causal=True)
    return torch.cat([_banded(attend, query, key, value, start, window) for start in range(0, length, window)], dim=2)


def _banded(
    attend: Callable[..., torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    start: int,
    window: int,
) -> torch.Tensor:
    """Attend from one window of queries to what they may see: the mask is [window, 2 window], not [S, S]."""
    first, end = max(0, start - window + 1), min(start + window, query.shape[2])
    mask = _causal_mask(end - start, window, query.device, before=start - first)
    seen = slice(first, end)
    return attend(query[:, :, start:end], key[:, :, seen], value[:, :, seen], attn_mask=mask)


def _explicit(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    dropout: float,
    window: int | None,
    *,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Softmax over scores, capped by tanh (Gemma 2) and with a learned sink per head (gpt-oss) where given."""
    key, value = _repeated(query, key, value)
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    visible = _causal_mask(query.shape[2], window, query.device)
    scores = scores.float().masked_fill(~visible, float("-inf"))
    if sinks is not None:
        column = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=3)
    shares = scores.softmax(dim=3)[..., : query.shape[2]].to(value.dtype)
    return torch.dropout(shares, dropout, train=dropout > 0) @ value


def _causal_mask(length: int, window: int | None, device: torch.device, before: int = 0) -> torch.Tensor:
    """True where a query may look: itself and what is before it, within the window. [length, before + length]"""
    place = torch.arange(-before, length, device=device)
    distance = place[before:, None] - place[None, :]
    return (distance >= 0) & (distance < (window or length))


def _has_varlen_kernel(query: torch.Tensor, dropout: float) -> bool:
    """Torch's variable-length kernel wants a card, 16 bits, no attention dropout, and heads of one width."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0


def _takes_groups(query: torch.Tensor) -> bool:
    """On a card only FlashAttention knows grouped keys, in 16 bits; else torch would write every score out."""
    return not query.is_cuda


def _repeated(query: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """One key and value for each head of the queries; a tensor that has them as it is."""
    return [
        x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) if x.shape[1] < query.shape[1] else x for x in tensors
    ]


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    shared = key.shape[1] < query.shape[1] and _varlen_takes_groups(varlen_attn)
    key, value = (key, value) if shared else _repeated(query, key, value)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [S, heads, d]
    behind = -1 if window is None else window - 1
    attend = partial(varlen_attn, enable_gqa=True) if shared else varlen_attn
    out = attend(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(behind, 0))
    return cast("torch.Tensor", out)[None]


@cache
def _varlen_takes_groups(kernel: Callable[..., object]) -> bool:
    """FlashAttention knows grouped keys and values; torch before 2.12 did not let it have them."""
    return "enable_gqa" in signature(kernel).parameters
