"""Layers of a 4-bit base that stay unpacked where there is room: the same numbers, without the time of unpacking."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorafit.model.lora_linear import frozen_weight
from lorafit.model.memory import decoder_layers


class Unpacked(nn.Linear):
    """A frozen linear with the weight that bitsandbytes' would unpack for every product."""

    def __init__(self, packed: Any) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = packed.in_features, packed.out_features
        self.weight = nn.Parameter(frozen_weight(packed, packed.compute_dtype), requires_grad=False)
        self.bias = packed.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give W x + bias, computed in the dtype of W and given in that of x, as bitsandbytes' linear does."""
        bias: torch.Tensor | None = self.bias
        bias = None if bias is None else bias.to(self.weight.dtype)
        return nn.functional.linear(x.to(self.weight.dtype), self.weight, bias).to(x.dtype)


def keep_unpacked(model: PreTrainedModel, layers: int) -> None:
    """Unpack the linears of the first so many layers for good, one after another; their packed weights are let go."""
    for layer in decoder_layers(model)[:layers] if layers else ():
        for name, packed in list(layer.named_modules()):
            if hasattr(packed, "quant_state"):
                parent, _, leaf = name.rpartition(".")
                setattr(layer.get_submodule(parent), leaf, Unpacked(packed))
