"""The real model, quantised and adapted as for a run, on fake tensors: no weights, no memory, no card."""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from lorafit.errors import ModelError, first_line
from lorafit.model.adapt import Attached, attach, linear_names
from lorafit.model.attention import EXPLICIT, FUSED, register
from lorafit.model.fast_linear import take_fast_linears
from lorafit.model.memory import decoder_layers, recompute_activations
from lorafit.plan.question import MemoryQuestion
from lorafit.recipe.quantization import Bits4, Unquantized


def build_fake(question: MemoryQuestion, config: Mapping[str, object], layers: int) -> Attached:
    """Build the model with so many layers, inside a FakeTensorMode. ModelError where transformers has no class."""
    dtype = torch.float32 if question.is_full else getattr(torch, question.dtype)
    try:
        model = cast("PreTrainedModel", AutoModelForCausalLM.from_config(shortened(config, layers), dtype=dtype))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_class(config, error) from None
    if isinstance(question.quantization, Bits4):
        _pack(model, question)
    elif not isinstance(question.quantization, Unquantized):
        raise ModelError("--exact does not trace int8 yet", fix="quantization.kind: nf4, or none", code="E4-TRACE")
    model.requires_grad_(False)
    register()
    model.set_attn_implementation(EXPLICIT if question.explicit_attention else FUSED)
    attached = attach(model, question.adapter, question.shape.name, 0)
    take_fast_linears(attached.model)
    if question.checkpointing:
        recompute_activations(attached.model, question.recomputed_layers, offloaded=question.offloaded)
    attached.model.train()
    return attached


def shortened(config: Mapping[str, object], layers: int) -> PretrainedConfig:
    """Make transformers' configuration, with only so many layers."""
    text = config.get("text_config")
    inner: dict[str, Any] = dict(text) if isinstance(text, Mapping) else dict(config)
    kind = str(inner.get("model_type") or config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise _no_class(config, KeyError(kind))
    depth_key = "n_layer" if "n_layer" in inner else "num_hidden_layers"
    inner[depth_key] = layers
    inner.setdefault("pad_token_id", None)  # a default may lie beyond this vocabulary
    for key in ("layer_types", "mlp_layer_types"):
        if isinstance(inner.get(key), list):
            inner[key] = inner[key][:layers]
    for key in ("auto_map", "quantization_config", "torch_dtype", "dtype", "architectures"):
        inner.pop(key, None)
    made: PretrainedConfig = CONFIG_MAPPING[kind](**inner)
    return made


def _pack(model: PreTrainedModel, question: MemoryQuestion) -> None:
    """Put bitsandbytes' layers in place of every linear that loading would quantise, but for those kept unpacked."""
    quantization = cast("Bits4", question.quantization)
    wanted = quantization.compute_dtype
    compute = getattr(torch, question.dtype if wanted == "auto" else wanted)
    kept = {module for layer in decoder_layers(model)[: question.unpacked_layers] for module in layer.modules()}
    for name in linear_names(model):
        if model.get_submodule(name) in kept:
            continue
        parent, _, leaf = name.rpartition(".")
        packed = _packed_class()(model.get_submodule(name), quantization, compute)
        setattr(model.get_submodule(parent), leaf, packed)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]
    model.is_quantized = True  # type: ignore[assignment]


@cache
def _packed_class() -> type[nn.Module]:
    """Make bitsandbytes' layer without its Params4bit, which cannot hold a fake tensor."""
    from bitsandbytes.autograd._functions import matmul_4bit
    from bitsandbytes.nn import Linear4bit

    class Packed(Linear4bit):
        def __init__(self, linear: nn.Linear | Conv1D, quantization: Bits4, compute: torch.dtype) -> None:
            nn.Module.__init__(self)
            weight = linear.weight.t() if isinstance(linear, Conv1D) else linear.weight
            self.out_features, self.in_features = weight.shape
            self.compute_dtype, self.compute_type_is_set = compute, True
            self.weight, self.quant_state = _packed_weight(weight, quantization)
            self.bias = linear.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bias: Any = self.bias
            bias = None if bias is None else bias.to(self.compute_dtype)
            state: Any = self.quant_state
            out: torch.Tensor = matmul_4bit(x.to(self.compute_dtype), self.weight, bias=bias, quant_state=state)
            return out.to(x.dtype)

    return Packed


def _packed_weight(unpacked: torch.Tensor, quantization: Bits4) -> tuple[nn.Parameter, Any]:
    """Half a byte a value, a scale for each 64, and under double quantisation scales of scales for each 256."""
    from bitsandbytes.functional import QuantState

    values = unpacked.numel()
    blocks = -(-values // 64)
    double = quantization.double_quant
    state2 = QuantState(
        absmax=torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32
    )
    state = QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8 if double else torch.float32),
        shape=torch.Size(unpacked.shape),
        dtype=unpacked.dtype,
        blocksize=64,
        code=torch.empty(16),
        quant_type=quantization.kind,
        offset=torch.empty(()) if double else None,
        state2=state2 if double else None,
    )
    weight: Any = nn.Parameter(torch.empty((values + 1) // 2, 1, dtype=torch.uint8), requires_grad=False)
    weight.quant_state, weight.compress_statistics = state, double
    weight.quant_type, weight.blocksize = quantization.kind, 64
    return weight, state


def _no_class(config: Mapping[str, object], error: BaseException) -> ModelError:
    return ModelError(
        f"transformers cannot build {config.get('model_type')!r}: {first_line(error)}",
        where="--exact",
        fix="leave --exact out for the estimate without the model's code",
        code="E4-TRACE",
    )
