"""A step of plain transformers and PEFT, as installed here, for the trace: what an estimate of theirs is held to."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorafit.model.adapt import Attached, attach
from lorafit.model.attention import as_autocast
from lorafit.model.trace_build import shortened
from lorafit.model.trace_card import fused_attention
from lorafit.model.trace_packed import pack
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.stack import Stack
from lorafit.recipe.quantization import Unquantized


def build_plain(question: MemoryQuestion, config: Mapping[str, object], layers: int) -> Attached:
    """Build the model with so many layers as a user of transformers would, inside a FakeTensorMode."""
    stack, build = cast("Stack", question.stack), cast("Any", AutoModelForCausalLM)
    model: PreTrainedModel = build.from_config(shortened(config, layers), dtype=getattr(torch, question.dtype))
    if not isinstance(question.quantization, Unquantized):
        pack(model, question)
    model.requires_grad_(question.is_full)
    _upcast(model, question)
    model.set_attn_implementation("eager" if question.explicit_attention else stack.kernel)
    attached = Attached(model, []) if question.is_full else attach(model, question.adapter, question.shape.name, 0)
    if question.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    attached.model.train()
    return attached


def _upcast(model: PreTrainedModel, question: MemoryQuestion) -> None:
    """`prepare_model_for_kbit_training`: norms to float32, or all that is not packed.

    What is a norm is told as TRL tells it (`peft_module_casting_to_bf16`): by its class, or by its name.
    """
    for name, module in model.named_modules():
        is_norm = isinstance(module, nn.LayerNorm) or "norm" in name
        size = question.norm_bytes if is_norm else question.embedding_bytes
        for parameter in module.parameters(recurse=False):
            if size == 4 and parameter.is_floating_point():
                parameter.data = parameter.data.float()


def plain_loss(model: PreTrainedModel, question: MemoryQuestion) -> torch.Tensor:
    """Take a batch of rows, padded or all of one length, through the model and its own loss."""
    rows, length = question.micro_batch_size, question.max_length
    ids = torch.zeros(rows, length, dtype=torch.long)
    mask = torch.ones_like(ids) if cast("Stack", question.stack).padded else None
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
    return loss


@contextmanager
def plain_kernels(*, padded: bool) -> Iterator[None]:
    """Let transformers take a card's kernels, and a mask only where rows are padded, which values would tell it."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **settings: Any) -> torch.Tensor:
        return fused_attention(*as_autocast(query, key, value), **settings)

    with (
        patch.object(functional, "scaled_dot_product_attention", attend),
        patch("transformers.masking_utils.is_tracing", lambda *_: padded),
        patch("transformers.masking_utils.find_packed_sequence_indices", lambda *_: None),
    ):
        yield
