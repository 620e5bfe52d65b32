"""Grouped keys and values go to the variable-length kernel as they are, where this torch lets them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import varlen

from lorafit.model import attention
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_by_name
from lorafit.recipe.adapters import Lora
from lorafit.recipe.quantization import Unquantized

BOUNDS = torch.tensor([0, 20, 29, 48], dtype=torch.int32)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, window: int) -> torch.Tensor:
    """What the kernel gives for [S, heads, d], of as many heads each as they have."""
    whole = (x.transpose(0, 1)[None] for x in (q, k, v))
    parts = [
        attention._explicit(*each, None, 0.0, None if window < 0 else window + 1, softcap=None, sinks=None)
        for each in attention._documents(bounds, *whole)
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


class Kernel:
    """Stands in for torch's, and notes how many heads of keys and values it was given."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, int]] = []

    def of_2_11(self, q: Any, k: Any, v: Any, bounds: Any, *_: Any, scale: Any, window_size: Any) -> torch.Tensor:
        assert q.shape[1] == k.shape[1] == v.shape[1]
        return self._attend(q, k, v, bounds, window_size)

    def of_2_12(
        self, q: Any, k: Any, v: Any, bounds: Any, *_: Any, scale: Any, window_size: Any, enable_gqa: bool = False
    ) -> torch.Tensor:
        assert enable_gqa or q.shape[1] == k.shape[1]
        return self._attend(q, k, v, bounds, window_size)

    def _attend(self, q: Any, k: Any, v: Any, bounds: Any, window_size: tuple[int, int]) -> torch.Tensor:
        self.heads.append((k.shape[1], v.shape[1]))
        return attend(q, k, v, bounds, window_size[0])


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("kv_heads", "version", "given"), [(2, "2_12", 2), (8, "2_12", 8), (2, "2_11", 8)])
def test_the_same_from_either_torch(
    kv_heads: int, version: str, given: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel()
    monkeypatch.setattr(varlen, "varlen_attn", getattr(kernel, f"of_{version}"))
    torch.manual_seed(0)
    shapes = [(1, heads, 48, 16) for heads in (8, kv_heads, kv_heads)]
    tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
    fast = attention._varlen(*tensors, BOUNDS, 20, None, window)
    parts = [attention._fused(q, k, v, None, 0.0, window) for q, k, v in attention._documents(BOUNDS, *tensors)]
    slow = torch.cat(parts, dim=2).transpose(1, 2)
    torch.testing.assert_close(fast, slow)
    upstream = torch.randn_like(slow)
    torch.testing.assert_close(
        torch.autograd.grad(fast, tensors, upstream), torch.autograd.grad(slow, tensors, upstream)
    )
    assert kernel.heads == [(given, given)]


def test_torchs_own_takes_the_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    own, seen = varlen.varlen_attn, []

    def noted(*arguments: Any, **named: Any) -> Any:
        seen.append([x.shape for x in arguments[:3]])
        return own(*arguments, **named)

    takes: Callable[..., bool] = attention._varlen_takes_groups
    monkeypatch.setattr(attention, "_varlen_takes_groups", lambda _: takes(own))
    monkeypatch.setattr(varlen, "varlen_attn", noted)
    with FakeTensorMode(allow_non_fake_inputs=True):
        query, key = (torch.empty(1, heads, 48, 64, dtype=torch.bfloat16, requires_grad=True) for heads in (8, 2))
        out = attention._varlen(query, key, key, BOUNDS, 20, None, None)
        gradients = torch.autograd.grad(out.sum(), [query, key])
    assert out.shape == (1, 48, 8, 64)
    assert [g.shape for g in gradients] == [query.shape, key.shape]
    heads = 2 if takes(own) else 8
    assert seen == [[(48, 8, 64), (48, heads, 64), (48, heads, 64)]]


def test_the_plan_keeps_one_key_and_value_for_each_group() -> None:
    shape = shape_by_name("llama-3-8b").shape
    asked = MemoryQuestion(shape, Lora(), Unquantized(), max_length=4096, checkpointing=False)
    layer = shape.layers[0].attention
    repeated = 2 * (layer.query_width - layer.key_width) * 2 * len(shape.layers)
    one, two = (estimate(replace(asked, micro_batch_size=rows)).phases["loss, forward"] for rows in (1, 2))
    kept = (two - one) / 4096
    streams_query_and_output = 4 * 4096
    lean = 2 * len(shape.layers) * (streams_query_and_output + 2 * layer.key_width + 2 * 14_336)
    assert lean < kept < lean + repeated / 4
