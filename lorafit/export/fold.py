"""The adapter and its base as one weight: W + scale B A (arXiv 2106.09685), and DoRA's (arXiv 2402.09353)."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.functional import linear

from lorafit.errors import ModelError
from lorafit.model.adapt import base_of

ADAPTER = "default"


class FoldedLinear(nn.Module):
    """A frozen linear layer with its adapter folded in, computed in float32 whenever it is asked for.

    Nothing is stored but what the layer holds already, so a whole folded model costs no memory. `dtype` is
    what the folded weight is rounded to, once.
    """

    def __init__(self, layer: LoraLayer) -> None:
        super().__init__()
        adapted = cast("Any", layer)  # PEFT types the tables of its layers as modules
        base = adapted.get_base_layer()
        self.dtype = torch.float32
        self.bias: nn.Parameter | None = base.bias
        self.transposed: bool = adapted.fan_in_fan_out  # GPT-2's Conv1D stores [in, out]
        self.scale: float = adapted.scaling[ADAPTER]
        # plain tensors: what is rounded as a parameter of the model is the bias alone
        self.frozen: torch.Tensor = base.weight.detach()
        self.down: torch.Tensor = adapted.lora_A[ADAPTER].weight.detach()  # [rank, in]
        self.up: torch.Tensor = adapted.lora_B[ADAPTER].weight.detach()  # [out, rank]
        magnitudes = adapted.lora_magnitude_vector
        self.magnitude = magnitudes[ADAPTER].weight.detach() if ADAPTER in magnitudes else None  # [out]

    @property
    def weight(self) -> torch.Tensor:
        """The folded weight, laid out as the base stores it."""
        return self._folded().T if self.transposed else self._folded()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply the folded weight; [..., in] to [..., out]."""
        return linear(inputs, self._folded(), self.bias)

    def _folded(self) -> torch.Tensor:
        """Give the folded weight [out, in]."""
        frozen = self.frozen.float().T if self.transposed else self.frozen.float()
        folded = torch.addmm(frozen, self.up.float(), self.down.float(), alpha=self.scale)
        if self.magnitude is not None:
            folded *= (self.magnitude.float() / folded.norm(dim=1))[:, None]
        return folded.to(self.dtype)


def table_of(model: nn.Module) -> nn.Embedding:
    """Give the table of token embeddings: it has the model's dtype, whatever else is quantised."""
    return cast("nn.Embedding", base_of(model).get_input_embeddings())


def fold(model: nn.Module) -> dict[str, FoldedLinear]:
    """Put a folded layer in the place of each adapted one, in the base model; give them by name.

    ModelError when an adapter changes nothing.
    """
    base = base_of(model)
    adapted = {name: layer for name, layer in base.named_modules() if isinstance(layer, LoraLayer)}
    folded = {name: FoldedLinear(layer) for name, layer in adapted.items()}
    _check_trained(folded)
    for name, layer in folded.items():
        base.set_submodule(name, layer)
    return folded


def _check_trained(layers: dict[str, FoldedLinear]) -> None:
    untrained = [name for name, layer in layers.items() if not layer.up.any()]
    if untrained:
        raise ModelError(
            f"the adapter changes nothing in {len(untrained)} of {len(layers)} layers: B is zero",
            where=untrained[0],
            fix="it was saved incompletely or never trained; train again",
            code="E4-ZERO-ADAPTER",
        )


def unpack(model: nn.Module) -> dict[str, nn.Linear]:
    """Bring the model to the host, each quantised layer as the plain one it stands for; give those by name.

    The weights are what training multiplied by: bitsandbytes' own dequantisation, on the device that packed
    them. It must come before any forward pass, which may repack the weights for the CPU at hand.
    """
    base = base_of(model)
    unpacked = {}
    for name, packed in list(_packed_layers(base)):
        plain = nn.Linear(packed.in_features, packed.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(_dequantized(packed).cpu(), requires_grad=False)
        plain.bias = packed.bias
        base.set_submodule(name, plain)
        unpacked[name.removesuffix(".base_layer")] = plain
    nn.Module.cpu(model)  # transformers refuses to move what it believes is still quantised
    return unpacked


def _packed_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    import bitsandbytes

    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit | bitsandbytes.nn.Linear8bitLt):
            yield name, module


def _dequantized(layer: Any) -> torch.Tensor:
    from bitsandbytes import functional
    from bitsandbytes import nn as packed

    weight = layer.weight
    if isinstance(layer, packed.Linear4bit):
        return functional.dequantize_4bit(weight.data, weight.quant_state)
    # the scales stand with the weight until the first forward pass moves them
    scales = weight.SCB if layer.state.SCB is None else layer.state.SCB
    return cast("torch.Tensor", functional.int8_vectorwise_dequant(weight.data, scales))
