"""The real model, quantised and adapted as for a run, on fake tensors: no weights, no memory, no card."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lorafit.errors import ModelError, first_line
from lorafit.model.adapt import Attached, attach
from lorafit.model.attention import EXPLICIT, FUSED, register
from lorafit.model.classify import HEAD
from lorafit.model.fast_linear import take_fast_linears
from lorafit.model.memory import recompute_activations
from lorafit.model.trace_packed import pack
from lorafit.plan.question import MemoryQuestion
from lorafit.recipe.quantization import Unquantized

# what transformers and torch raise for a configuration that a class cannot be made of: not all its numbers are checked
NOT_BUILT = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RuntimeError,
    StrictDataclassError,
)  # fmt: skip


def build_fake(question: MemoryQuestion, config: Mapping[str, object], layers: int) -> Attached:
    """Build the model with so many layers, inside a FakeTensorMode. ModelError where transformers has no class."""
    dtype = torch.float32 if question.is_full else getattr(torch, question.dtype)
    try:
        build: Any = AutoModelForSequenceClassification if question.classes else AutoModelForCausalLM
        model = cast("PreTrainedModel", build.from_config(shortened(config, layers), dtype=dtype))
    except NOT_BUILT as error:
        raise _no_class(config, error) from None
    if not isinstance(question.quantization, Unquantized):
        pack(model, question)
    if question.classes:  # which a run draws anew, in float32
        setattr(model, HEAD, nn.Linear(question.shape.hidden_size, question.classes, bias=False))
    model.requires_grad_(False)
    register()
    model.set_attn_implementation(EXPLICIT if question.explicit_attention else FUSED)
    attached = attach(model, question.adapter, question.shape.name, 0)
    take_fast_linears(attached.model)
    if question.checkpointing:
        recompute_activations(attached.model, question.recomputed_layers, offloaded=question.offloaded)
    attached.model.train()
    return attached


def shortened(config: Mapping[str, object], layers: int | None = None) -> PretrainedConfig:
    """Make transformers' configuration with only so many layers, one of each kind: a kind has tables of its own.

    None: with as many as it says.
    """
    text = config.get("text_config")
    inner: dict[str, Any] = dict(text) if isinstance(text, Mapping) else dict(config)
    kind = str(inner.get("model_type") or config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise _no_class(config, KeyError(kind))
    inner.setdefault("pad_token_id", None)  # a default may lie beyond this vocabulary
    for key in ("auto_map", "quantization_config", "torch_dtype", "dtype", "architectures"):
        inner.pop(key, None)
    made: PretrainedConfig = CONFIG_MAPPING[kind](**inner)
    if layers is None:
        return made
    for key in ("layer_types", "mlp_layer_types"):
        kinds = getattr(made, key, None)
        if isinstance(kinds, list) and (key in inner or len(set(kinds)) > 1):
            inner[key] = _few(kinds, layers)
    inner[_depth_key(inner, kind)] = layers
    short: PretrainedConfig = CONFIG_MAPPING[kind](**inner)
    return short


def _depth_key(config: Mapping[str, object], kind: str) -> str:
    """Under which key the number of layers stands: transformers takes its own name beside the family's."""
    usual = "num_hidden_layers"
    own = str(CONFIG_MAPPING[kind].attribute_map.get(usual, usual))
    return own if own in config else usual


def _few(kinds: list[str], layers: int) -> list[str]:
    """Take the first so many; in place of the last of them the kinds that only come later."""
    later = [kind for kind in dict.fromkeys(kinds) if kind not in kinds[:layers]]
    return kinds[: layers - len(later)] + later


def _no_class(config: Mapping[str, object], error: BaseException) -> ModelError:
    return ModelError(
        f"transformers cannot build {config.get('model_type')!r}: {first_line(error)}",
        where="--exact",
        fix="leave --exact out for the estimate without the model's code",
        code="E4-TRACE",
    )
