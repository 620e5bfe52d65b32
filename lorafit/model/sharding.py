"""Split a frozen base over processes (FSDP2): each holds a part of every layer, and gathers a layer while it is used.

Only the base is split. The adapter comes on afterwards and stays whole everywhere, as it is under data parallelism:
it is about a hundredth of the weights, its one flat gradient is added up in one collective, and so the update, the
clipping, the checkpoints and a resume on any number of processes are the same code and give the same bytes.
A gathered weight is the weight itself, so the split changes no number either.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from lorafit.errors import ModelError


def shard(
    model: PreTrainedModel, device: torch.device, quantizing: BitsAndBytesConfig | None, dtype: torch.dtype | None
) -> None:
    """Move a frozen model from host memory to the device, a layer at a time, and keep this process's part of each.

    On the way weights become `dtype` (None: what they are), with `quantizing` those of linears 4 bits. Decoder layers,
    the embedding and the head are split each by itself. What stays whole: the norm behind the layers, whose gathering
    would take longer than its weights are worth, a table that embedding and head share, a head that will be trained.
    Raises ModelError when no decoder layers are found.
    """
    stack = model.base_model
    table, head = cast("nn.Embedding", model.get_input_embeddings()), model.get_output_embeddings()
    tied = head is not None and head.weight is table.weight
    quantized = _four_bit(model, quantizing) if quantizing else {}
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in _decoder_layers(stack):
        _fill([module for module in layer.modules() if module in quantized], quantized, device, dtype)
        _bring(layer, device, dtype)
        fully_shard(layer, mesh=mesh)
    _fill(list(quantized), quantized, device, dtype)
    for module in (stack, head):
        if module is not None:
            _bring(module, device, dtype)
    for module in () if tied else (table, head):
        if module is not None:
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    if not tied:  # the backward asks nothing of a frozen table, and FSDP would fetch it ahead all the same
        cast("FSDPModule", table).set_unshard_in_backward(False)
    vectors = {p for p in stack.parameters() if p.dim() < 2 and not isinstance(p, DTensor)}
    whole = vectors | (set(table.parameters()) if tied else set())
    fully_shard(stack, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    cast("nn.Module", model).to(device)
    _describe_parts(model)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Hold a module's weights whole for a while, for a use that is not its forward."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def _decoder_layers(stack: nn.Module) -> list[nn.Module]:
    """Find what repeats: that which recomputes its activations, if it is asked to."""
    layers = [module for module in stack.modules() if isinstance(module, GradientCheckpointingLayer)]
    inner = {id(module) for layer in layers for module in layer.modules() if module is not layer}
    outermost: list[nn.Module] = [layer for layer in layers if id(layer) not in inner]
    if not outermost:
        raise ModelError(
            f"{type(stack).__name__} has no layers that could be split over processes",
            where="training.sharding",
            fix="set training.sharding: none",
            code="E4-SHARDING",
        )
    return outermost


def _four_bit(model: PreTrainedModel, quantizing: BitsAndBytesConfig) -> dict[nn.Module, nn.Module]:
    """Put empty 4-bit linears in, where transformers would; give each with the one whose weight it takes."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import HfQuantizer

    before = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    kept = cast("Any", model)._keep_in_fp32_modules
    skipped = HfQuantizer.get_modules_to_not_convert(model, quantizing.llm_int8_skip_modules, kept)
    replace_with_bnb_linear(model, skipped, quantizing)
    cast("Any", model).is_loaded_in_4bit = True
    after = {name: model.get_submodule(name) for name in before}
    return {after[name]: module for name, module in before.items() if after[name] is not module}


def _bring(module: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
    """Move to the device, in a dtype, what is neither packed nor split yet; buffers keep their precision."""
    for parameter in module.parameters():
        if parameter.is_floating_point() and not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(device, dtype)


def _fill(
    linears: list[nn.Module],
    sources: dict[nn.Module, nn.Module],
    device: torch.device,
    dtype: torch.dtype | None,
) -> None:
    """Quantise on the device, a weight at a time; what it came from is let go of."""
    from bitsandbytes.nn import Params4bit

    for linear in linears:
        source = cast("Any", sources.pop(linear))
        weight = source.weight.data.T if isinstance(source, Conv1D) else source.weight.data
        empty = cast("Any", linear).weight
        packed: Any = Params4bit(weight.to(device, dtype), requires_grad=False, **empty.__dict__)
        linear.weight = packed.to(device)  # packs it
        linear.bias = source.bias


def _describe_parts(model: nn.Module) -> None:
    """Note beside each part of a 4-bit weight what the whole is: PEFT, and whoever counts weights, asks for that."""
    for module in model.modules():
        state = getattr(module, "quant_state", None)
        if state is not None:
            weight = cast("Any", module).weight
            weight.quant_state, weight.quant_type, weight.compress_statistics = state, state.quant_type, state.nested
