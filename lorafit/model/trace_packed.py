"""bitsandbytes' layers for fake tensors: packed weights by their sizes, with the products that run on a card."""

import logging
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorafit.model.adapt import linear_names
from lorafit.model.memory import decoder_layers
from lorafit.plan.question import MemoryQuestion
from lorafit.recipe.quantization import Bits4, Int8


def pack(model: PreTrainedModel, question: MemoryQuestion) -> None:
    """Put bitsandbytes' layers in place of every linear that loading would quantise, but for those kept unpacked."""
    int8 = isinstance(question.quantization, Int8)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of each product that is not in float16
    kept = {module for layer in decoder_layers(model)[: question.unpacked_layers] for module in layer.modules()}
    for name in linear_names(model):
        if model.get_submodule(name) in kept:
            continue
        parent, _, leaf = name.rpartition(".")
        linear: Any = model.get_submodule(name)
        packed = _int8_class()(linear) if int8 else _bits4_class()(linear, *_bits4(question))
        setattr(model.get_submodule(parent), leaf, packed)
    setattr(model, "is_loaded_in_8bit" if int8 else "is_loaded_in_4bit", True)
    model.is_quantized = True  # type: ignore[assignment]


def _bits4(question: MemoryQuestion) -> tuple[Bits4, torch.dtype]:
    quantization = cast("Bits4", question.quantization)
    wanted = quantization.compute_dtype
    return quantization, getattr(torch, question.dtype if wanted == "auto" else wanted)


@cache
def _int8_class() -> type[nn.Module]:
    """Make bitsandbytes' layer without its Int8Params. No column of the input is an outlier: values decide that."""
    from bitsandbytes import MatmulLtState
    from bitsandbytes.autograd._functions import MatMul8bitLt
    from bitsandbytes.nn import Linear8bitLt

    class Packed(Linear8bitLt):
        def __init__(self, linear: nn.Linear | Conv1D) -> None:
            nn.Module.__init__(self)
            weight = linear.weight.t() if isinstance(linear, Conv1D) else linear.weight
            self.out_features, self.in_features = weight.shape
            self.weight = nn.Parameter(torch.empty(weight.shape, dtype=torch.int8), requires_grad=False)
            self.state, self.index, self.bias = MatmulLtState(), None, linear.bias
            self.state.CB, self.state.SCB = self.weight.data, torch.empty(self.out_features)
            self.state.has_fp16_weights = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bias: Any = self.bias
            bias = None if bias is None else bias.to(x.dtype)
            out: torch.Tensor = MatMul8bitLt.apply(x, self.weight, None, bias, self.state)
            return out

    return Packed


@cache
def _bits4_class() -> type[nn.Module]:
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
            asked = x.dtype
            x = x.to(self.compute_dtype)  # held as long as the answer is brought back
            out: torch.Tensor = matmul_4bit(x, self.weight, bias=bias, quant_state=state).to(asked)
            return out

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
