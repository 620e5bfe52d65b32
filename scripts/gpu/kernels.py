"""Two pieces of a step alone, beside the matrix products that they cannot do without (G10, G11)."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lorafit.model.fast_linear import take_fast_linears
from lorafit.model.head_loss import head_loss

REPEATS = 5
Shape = tuple[int, int, int]


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Give the median time, after a warm-up."""
    found = []
    for _ in range(REPEATS + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def products_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of large square products: the ceiling that shares are of."""
    side = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: [left @ right for _ in range(4)], device) * 4


def loss_alone(device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """G10: the loss and the gradient of its states, under a frozen head, against two products of that size."""
    tokens, words, hidden = (128, 512, 64) if tiny else (16_384, 128_256, 4096)
    dtype = torch.float32 if tiny else torch.bfloat16
    head = nn.Linear(hidden, words, bias=False, device=device, dtype=dtype).requires_grad_(False)
    states = torch.randn(tokens, hidden, device=device, dtype=dtype, requires_grad=True)
    targets = torch.randint(words, (tokens,), device=device)
    rows = max(1, 2**25 // words)  # in chunks too: all logits at once would be another measure

    def bare() -> None:
        with torch.no_grad():
            for start in range(0, tokens, rows):
                (states[start : start + rows] @ head.weight.T) @ head.weight

    def ours() -> None:
        states.grad = None
        torch.autograd.backward(head_loss(states, head, targets))

    def memory() -> int | None:
        if device.type != "cuda":
            return None
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        ours()
        return int(torch.cuda.max_memory_allocated() - before)

    took, floor = seconds(ours, device), seconds(bare, device)
    return {"times_the_products": took / floor, "loss_seconds": took, "memory_bytes": memory()}


def linear_alone(device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """G11: forward and backward of an adapted linear, against the two products with the frozen weight."""
    shapes: dict[str, Shape] = {"q": (16_384, 4096, 4096), "up": (16_384, 4096, 14_336), "down": (16_384, 14_336, 4096)}
    found: dict[str, Any] = {}
    for name, (tokens, inner, outer) in shapes.items():
        shape = (64, inner // 128, outer // 128) if tiny else (tokens, inner, outer)
        found[name] = _linear(shape, device, torch.float32 if tiny else torch.bfloat16)
    ours = sum(each["lorafit_seconds"] for each in found.values())
    floor = sum(each["products_seconds"] for each in found.values())
    return {"times_the_products": ours / floor, "shapes": found}


def _linear(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    tokens, inner, outer = shape
    x = torch.randn(tokens, inner, device=device, dtype=dtype, requires_grad=True)
    dy = torch.randn(tokens, outer, device=device, dtype=dtype)
    weight = torch.randn(outer, inner, device=device, dtype=dtype)

    def bare() -> None:
        with torch.no_grad():
            x @ weight.T
            dy @ weight

    sides = {"lorafit": _adapted(inner, outer, device, dtype, fast=True)}
    sides["peft"] = _adapted(inner, outer, device, dtype, fast=False)
    took = {f"{name}_seconds": seconds(lambda m=module: _pass(m, x, dy), device) for name, module in sides.items()}  # type: ignore[misc]
    return took | {"products_seconds": seconds(bare, device)}


def _pass(module: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> None:
    x.grad = None
    with torch.autocast(x.device.type, dtype=x.dtype, enabled=x.dtype != torch.float32):
        out = module(x)
    torch.autograd.backward(out, dy)


def _adapted(inner: int, outer: int, device: torch.device, dtype: torch.dtype, *, fast: bool) -> nn.Module:
    """Put PEFT's adapter on a linear, float32 on a base of 16 bits as in a run, and lorafit's fast path on that."""
    base: Any = nn.Sequential(nn.Linear(inner, outer, bias=False, device=device, dtype=dtype))
    model: Any = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=["0"]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if fast:
        take_fast_linears(model)
    module: nn.Module = model.train()
    return module
