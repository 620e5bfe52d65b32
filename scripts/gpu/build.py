"""Models of real shapes with random weights, made on the device: speed and memory do not depend on values."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer

from lorafit.model.adapt import linear_names
from lorafit.model.trace_build import shortened
from lorafit.recipe.quantization import Bits4, Quantization, Unquantized

SCALE = 0.02


def random_model(
    config: Mapping[str, object], quantization: Quantization, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """Make a frozen model; 4-bit weights are packed one by one, so that no 16-bit model is ever there."""
    with init_empty_weights(include_buffers=False):
        made = shortened(config, int(str(config.get("num_hidden_layers"))))
        model = cast("PreTrainedModel", AutoModelForCausalLM.from_config(made, dtype=dtype))
    if isinstance(quantization, Bits4):
        _pack(model, quantization, device, dtype)
    elif not isinstance(quantization, Unquantized):
        raise ValueError(f"no {quantization.kind} here")
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            owner, _, leaf = name.rpartition(".")
            fresh = _random(parameter.shape, device, dtype)
            model.get_submodule(owner)._parameters[leaf] = nn.Parameter(fresh, requires_grad=False)
    for module in model.modules():
        module._buffers.update({k: v.to(device) for k, v in module._buffers.items() if v is not None})
    model.tie_weights()
    model.requires_grad_(False)
    model.eval()
    return model


def _random(shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Norms begin at one; everything else is drawn."""
    if len(shape) < 2:
        return torch.ones(shape, device=device, dtype=dtype)
    return torch.empty(shape, device=device, dtype=dtype).normal_(std=SCALE)


def _pack(model: PreTrainedModel, quantization: Bits4, device: torch.device, dtype: torch.dtype) -> None:
    """Put bitsandbytes' layers in the place of all linears that loading would quantise."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name in linear_names(model):
        linear = cast("nn.Linear", model.get_submodule(name))
        packed: Any = Linear4bit(
            linear.in_features, linear.out_features, bias=linear.bias is not None, compute_dtype=dtype,
            compress_statistics=quantization.double_quant, quant_type=quantization.kind, device="meta",
        )  # fmt: skip
        weight: Any = Params4bit(
            _random(linear.weight.shape, device, dtype), requires_grad=False, quant_type=quantization.kind,
            compress_statistics=quantization.double_quant, module=packed,
        )  # fmt: skip
        packed.weight = weight.to(device)  # packs it
        packed.support_avx512bf16_for_cpu = False  # as loading does: the other layout has no backward
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, packed)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]
    model.is_quantized = True  # type: ignore[assignment]
    model.hf_quantizer = AutoHfQuantizer.from_config(quantization.build(dtype))  # the Trainer asks it whether it may
