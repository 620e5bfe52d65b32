"""Which layers of a model take lorafit's own LoRA linear, which keep PEFT's forward, and why."""

from collections import Counter
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorafit.model.lean import take_lean_blocks
from lorafit.model.lora_linear import Update, lora_linear

DORA = "DoRA scales by a norm of the whole weight"


def slow_linears(model: nn.Module) -> dict[str, int]:
    """Count the LoRA layers that keep PEFT's forward, by why; empty where all take the fast one."""
    return dict(Counter(why for layer in _lora_layers(model) if (why := _obstacle(layer))))


def take_fast_linears(model: nn.Module) -> None:
    """Have the LoRA layers of PEFT compute with `lora_linear` where they train.

    Modules, parameters and their names stay as they are. What `lora_linear` does not do, PEFT's forward does:
    layers that are disabled, merged, of several adapters at once, or whose gradient nobody wants.
    """
    for layer in _lora_layers(model):
        if _obstacle(layer) is None:
            layer.forward = MethodType(_forward, layer)
    if any(True for _ in _lora_layers(model)) and not slow_linears(model):
        take_lean_blocks(model)


def _forward(layer: Any, x: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
    """Stand in for the forward of a LoRA layer of PEFT."""
    if torch.is_grad_enabled() and not args and not named:
        update = _update(layer)
        dtype = _computes_in(x, update)
        if update is not None and dtype is not None:
            return lora_linear(x.to(dtype), layer.base_layer, update)
    out: torch.Tensor = type(layer).forward(layer, x, *args, **named)
    return out


def _update(layer: Any) -> Update | None:
    """Give the update that a layer adds, where it is one as `lora_linear` has it."""
    if layer.disable_adapters or layer.merged_adapters:
        return None
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or layer.lora_variant:
        return None
    name = names[0]
    dropout = layer.lora_dropout[name]
    share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    return Update(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name], share)


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
    if layer.lora_variant:
        names = {type(variant).__name__ for variant in layer.lora_variant.values()}
        return DORA if names == {"DoraLinearVariant"} else f"{', '.join(sorted(names))} is not known"
    if any(isinstance(matrix, nn.Linear) and matrix.bias is not None for matrix in layer.lora_B.values()):
        return "B has a bias"
    if any(parameter.requires_grad for parameter in base.parameters()):
        return "the base weight or its bias is trained"
    return None
