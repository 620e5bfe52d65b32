"""A model's sizes, read off transformers' own class: for families that lorafit has no table of."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from lorafit.errors import ModelError
from lorafit.model.memory import decoder_layers
from lorafit.model.trace_build import NOT_BUILT, shortened
from lorafit.plan.config_keys import LARGEST
from lorafit.plan.family import MOST_LAYERS
from lorafit.plan.layers import Attention, Experts, Layer, Linear, Mlp, ModelShape
from lorafit.plan.shapes import text_type
from lorafit.plan.targets import part_of

TRACED = (
    "its sizes are read off transformers' class, its bytes are those of the trace, each `auto` stays at its least, and "
    "only a run proves that the documents of a row stay apart in it"
)
ALL_EXPERTS = "config.json does not say in a known way how many experts a token picks: the work counts all"
_PICKED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts")


def class_shape(config: Mapping[str, object], name: str) -> ModelShape:
    """Build the model without weights and memory, and read its layers, linears and counts. ModelError.

    What a layer does with its linears is not read: only a trace of its step tells what it keeps.
    """
    kind = text_type(config)
    if kind not in CONFIG_MAPPING:
        raise _not_read(name, f"{kind!r} is no family that transformers has")
    try:
        made = shortened(config)
        if type(made) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise _not_read(name, f"{kind!r} is no decoder of text")
        if not 1 <= made.num_hidden_layers <= MOST_LAYERS:  # each would be built
            raise ValueError(f"{made.num_hidden_layers} layers, expected 1 to {MOST_LAYERS:,}")
        if not 1 <= made.vocab_size <= LARGEST:
            raise ValueError(f"a vocabulary of {made.vocab_size}, expected 1 to {LARGEST:,}")
        with torch.device("meta"):
            model = cast("PreTrainedModel", AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16))
        if _is_no_decoder(model):
            raise _not_read(name, f"{kind!r} is no decoder of text alone: its attention looks ahead, or at an encoder")
        return _shape(model, name)
    except NOT_BUILT as error:
        what = " ".join(str(error).split())[:300] or type(error).__name__
        raise _not_read(name, f"transformers cannot make a {kind!r} of it: {what}") from None


def _is_no_decoder(model: PreTrainedModel) -> bool:
    """Tell whether all attention that says so sees what is to come, as an encoder's does, or some of it an encoder."""
    said = {module.is_causal for module in model.modules() if hasattr(module, "is_causal")}
    return said == {False} or any(name.endswith("encoder_attn") for name, _ in model.named_modules())


def _not_read(name: str, why: str) -> ModelError:
    return ModelError(
        why,
        where=name,
        fix="take the config.json that came with the weights; transformers must have a class for its model_type",
        code="E4-MODEL-TYPE",
    )


def _shape(model: PreTrainedModel, name: str) -> ModelShape:
    config = model.config.get_text_config()
    layers = decoder_layers(model)
    names = {id(module): path for path, module in model.named_modules()}
    prefix = names[id(layers[0])].rpartition(".")[0]
    kinds: dict[Layer, Layer] = {}
    found = [_layer(each, f"{prefix}.{index}", config) for index, each in enumerate(layers)]
    read = tuple(kinds.setdefault(layer, layer) for layer in found)
    inside = sum(layer.parameters for layer in read)
    unpicked = any(layer.mlp.experts and not _picked(config) for layer in read)
    head, embedding = model.get_output_embeddings(), cast("nn.Embedding", model.get_input_embeddings())
    tied = head is None or head.weight is embedding.weight
    vocab_size, hidden_size = embedding.weight.shape
    ends = vocab_size * hidden_size * (1 if tied else 2)
    return ModelShape(
        name=name,
        model_type=config.model_type,
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        tied=tied,
        layers=read,
        prefix=prefix,
        outer_parameters=sum(p.numel() for p in model.parameters()) - inside - ends,
        notes=(f"of {config.model_type!r} there is no table: " + TRACED, *([ALL_EXPERTS] if unpicked else [])),
        read_off=True,
    )


def _layer(module: nn.Module, path: str, config: PretrainedConfig) -> Layer:
    linears = [_linear(each, name) for name, each in module.named_modules() if isinstance(each, nn.Linear | Conv1D)]
    mixing = [linear for linear in linears if part_of(f"{path}.{linear.name}") in ("attention", "mixer")]
    others = [linear for linear in linears if linear not in mixing]
    stacked = [p for each in module.modules() for p in each.parameters(recurse=False) if _is_stack(each, p)]
    known = sum(linear.weights + linear.biases for linear in linears) + sum(p.numel() for p in stacked)
    width = max((max(linear.in_features, linear.out_features) for linear in others), default=0)
    outputs = [linear.out_features for linear in mixing] or [config.hidden_size]
    return Layer(
        attention=Attention(tuple(mixing), 1, outputs[0], outputs[min(1, len(outputs) - 1)], outputs[-1]),
        mlp=Mlp(tuple(others), width, experts=_experts(stacked, config)),
        norm_parameters=sum(p.numel() for p in module.parameters()) - known,
    )


def _is_stack(module: nn.Module, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 3 and not isinstance(module, nn.Conv1d)


def _experts(stacked: list[nn.Parameter], config: PretrainedConfig) -> Experts | None:
    """Matrices of experts, [experts, ...] each."""
    if not stacked:
        return None
    count = stacked[0].shape[0]
    values = sum(p.numel() for p in stacked)
    return Experts(count, min(_picked(config) or count, count), stacked[0].shape[1], values)


def _picked(config: PretrainedConfig) -> int:
    """Experts that a token picks; 0 where config.json does not say so in a known way."""
    return next((found for name in _PICKED if isinstance(found := getattr(config, name, None), int)), 0)


def _linear(module: nn.Linear | Conv1D, name: str) -> Linear:
    weight = module.weight if isinstance(module, nn.Linear) else module.weight.t()
    return Linear(name, weight.shape[1], weight.shape[0], module.bias is not None)
