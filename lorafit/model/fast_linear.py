"""Which layers of a model take lorafit's own LoRA or DoRA linear, which keep PEFT's forward, and why."""

from collections import Counter
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorafit.model.dora_linear import dora_linear, row_squares
from lorafit.model.lean import take_lean_blocks
from lorafit.model.lora_linear import Update, frozen_weight, lora_linear

_DORA = "DoraLinearVariant"


def slow_linears(model: nn.Module) -> dict[str, int]:
    """Count the LoRA layers that keep PEFT's forward, by why; empty where all take the fast one."""
    return dict(Counter(why for layer in _lora_layers(model) if (why := _obstacle(layer))))


def take_fast_linears(model: nn.Module) -> None:
    """Have the LoRA layers of PEFT compute with `lora_linear` or `dora_linear` where they train.

    Modules, parameters and their names stay as they are. What those do not do, PEFT's forward does: layers that are
    disabled, merged, of several adapters at once, or (but for DoRA, whose weights are large) without a gradient.
    """
    for layer in _lora_layers(model):
        if _obstacle(layer) is None:
            layer.forward = MethodType(_forward, layer)
    if any(True for _ in _lora_layers(model)) and not slow_linears(model):
        take_lean_blocks(model)


def _forward(layer: Any, x: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
    """Stand in for the forward of a LoRA layer of PEFT."""
    if (torch.is_grad_enabled() or layer.lora_variant) and not args and not named:
        update, name = _update(layer)
        dtype = _computes_in(x, update)
        if update is not None and dtype is not None:
            if name in layer.lora_variant:
                return _with_magnitude(layer.lora_magnitude_vector[name], x.to(dtype), layer.base_layer, update)
            return lora_linear(x.to(dtype), layer.base_layer, update)
    out: torch.Tensor = type(layer).forward(layer, x, *args, **named)
    return out


def _with_magnitude(holder: Any, x: torch.Tensor, frozen: nn.Module, update: Update) -> torch.Tensor:
    """DoRA's linear; the squares of the frozen rows are computed once."""
    if getattr(holder, "row_squares", None) is None:
        holder.row_squares = row_squares(frozen_weight(frozen, x.dtype))
    return dora_linear(x, frozen, update, holder.weight, holder.row_squares)


def _update(layer: Any) -> tuple[Update | None, str]:
    """Give the update that a layer adds, and its name, where it is one as `lora_linear` has it."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged_adapters or len(names) != 1:
        return None, ""
    name = names[0]
    dropout = layer.lora_dropout[name]
    share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    return Update(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name], share), name


def _computes_in(x: torch.Tensor, update: Update | None) -> torch.dtype | None:
    """Give the dtype of the products; None where PEFT would compute base and update in different ones."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype if update is not None and update.a.dtype == x.dtype else None


def _lora_layers(model: nn.Module) -> Iterator[Any]:
    """Give PEFT's layers that stand for a linear, in module order; adapters of embeddings are none."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and not isinstance(module.get_base_layer(), nn.Embedding):
            yield module


def _obstacle(layer: Any) -> str | None:
    """Say why a layer keeps PEFT's forward for good; None if it does not."""
    base = layer.base_layer
    if type(layer) is not Linear and type(layer).__name__ not in ("Linear4bit", "Linear8bitLt"):
        return f"PEFT's {type(layer).__name__} is not known"
    if not isinstance(base, nn.Linear | Conv1D):
        return f"its base is a {type(base).__name__}"
    variants = {type(variant).__name__ for variant in layer.lora_variant.values()}
    if variants - {_DORA}:
        return f"{', '.join(sorted(variants - {_DORA}))} is not known"
    if any(isinstance(matrix, nn.Linear) and matrix.bias is not None for matrix in layer.lora_B.values()):
        return "B has a bias"
    if any(parameter.requires_grad for parameter in base.parameters()):
        return "the base weight or its bias is trained"
    return None
