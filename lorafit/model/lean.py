"""Norms and gated MLPs that keep what they read and not what they make; an adapter that needs that makes it again.

A decoder of transformers keeps a float32 copy of the residual stream for each norm, the norm's output for the adapters
behind it, and in the MLP the activation and the product beside gate and up. All of it follows from the stream, one
number a token, and gate and up. The forwards compute bit for bit what the model's own modules compute.
"""

import ast
import inspect
from collections.abc import Callable
from functools import cache, partial
from textwrap import dedent
from types import MethodType
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from lorafit.model.remake import can_be_remade

ACTIVATIONS = ("SiLU", "SiLUActivation", "GELUActivation", "GELUTanh")  # of one kernel, which autocast lets be


# What such forwards look like: transformers repeats them from model to model, word by word.
NORM = """
input_dtype = hidden_states.dtype
hidden_states = hidden_states.to(torch.float32)
variance = hidden_states.pow(2).mean(-1, keepdim=True)
hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
return self.weight * hidden_states.to(input_dtype)
"""
MLPS = (
    "down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))\nreturn down_proj",
    "return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))",
    "return self.down_proj(self.act_fn(self.gate_proj(hidden_state)) * self.up_proj(hidden_state))",
    "down_proj = self.activation_fn(self.gate_proj(x)) * self.up_proj(x)\nreturn self.down_proj(down_proj)",
)


def take_lean_blocks(model: nn.Module) -> None:
    """Have frozen norms and gated MLPs that compute as Llama's do keep only what they read, while they train."""
    for module in model.modules():
        if _is_norm(module):
            module.forward = MethodType(_norm, module)
        elif _is_gated(module):
            module.forward = MethodType(_mlp, module)


def _is_norm(module: Any) -> bool:
    named = type(module).__name__.endswith("RMSNorm")
    return named and _code(type(module).forward) == NORM.strip() and not module.weight.requires_grad


def _is_gated(module: nn.Module) -> bool:
    named = type(module).__name__.endswith("MLP")
    return named and _code(type(module).forward) in MLPS and type(_activation(module)).__name__ in ACTIVATIONS


def _activation(module: Any) -> nn.Module:
    return cast("nn.Module", module.activation_fn if hasattr(module, "activation_fn") else module.act_fn)


@cache
def _code(function: Callable[..., object]) -> str | None:
    """Give the body of a function, laid out anew."""
    try:
        tree = ast.parse(dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    return ast.unparse(ast.Module(cast("ast.FunctionDef", tree.body[0]).body, []))


def _norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Stand in for the forward of an RMSNorm."""
    if not torch.is_grad_enabled():
        return cast("torch.Tensor", type(module).forward(module, hidden_states))
    out, scale = _RmsNorm.apply(hidden_states, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return can_be_remade(out, _normed, hidden_states, scale, module.weight)


def _normed(x: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * (x.float() * scale).to(x.dtype)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, scale, weight)
        ctx.mark_non_differentiable(scale)
        return _normed(x, scale, weight), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, received: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, scale, weight = ctx.saved_tensors
        gradient = (received * weight).float()
        normal = x.float() * scale
        along = (gradient * normal).mean(-1, keepdim=True)
        gradient.sub_(normal.mul_(along)).mul_(scale)
        del normal
        return gradient.to(x.dtype), None, None


def _mlp(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Stand in for the forward of a gated MLP."""
    if not torch.is_grad_enabled():
        return cast("torch.Tensor", type(module).forward(module, x))
    gate, up = module.gate_proj(x), module.up_proj(x)
    activation = _activation(module)
    product = _Gated.apply(gate, up, activation)  # type: ignore[no-untyped-call]
    return cast("torch.Tensor", module.down_proj(can_be_remade(product, partial(_gated, activation), gate, up)))


def _gated(activation: nn.Module, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    active: torch.Tensor = activation(gate)
    return active.mul_(up)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, activation: nn.Module) -> torch.Tensor:
        ctx.activation = activation
        ctx.save_for_backward(gate, up)
        return _gated(activation, gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, received: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            leaf = gate.detach().requires_grad_()
            active = ctx.activation(leaf)
        (of_gate,) = torch.autograd.grad(active, leaf, received * up)
        return of_gate, active.detach().mul_(received), None
