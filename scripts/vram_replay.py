"""Trace the step of plain transformers + PEFT for a published run, and replay it through torch's allocator.

The model's code is that of the transformers installed; what its versions do otherwise (the loss, the upcast of norms,
AdamW over lists of tensors) is done as the run's own version did it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from transformers import PreTrainedModel

from lorafit.model import trace as tracing
from lorafit.model.batch import DeviceBatch
from lorafit.model.loss import _inputs
from lorafit.model.trace_build import build_fake
from lorafit.model.trained import Trained
from lorafit.plan.allocator import replay
from lorafit.plan.find_shape import find_shape
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.reserved import workspaces
from lorafit.plan.unroll import training, unrolled

DEPTHS = (3, 4)


def replayed(model: str, question: MemoryQuestion, capacity_bytes: int) -> tuple[int, int]:
    """Give what is allocated and reserved at most, without expandable segments. CardFull where it does not fit."""
    config, layers = find_shape(model).config, len(question.shape.layers)
    # an update over lists of all weights makes more tensors the more layers there are: no layer repeats it
    depths = (layers,) if question.is_full else DEPTHS
    with _plain():
        found_at = [tracing.trace(question, config, depth, _adamw).recording for depth in depths]
    step = training(unrolled(found_at[-1], found_at[0], layers))
    found = replay([*workspaces(), *step], capacity_bytes)
    return found.peak_allocated, found.peak_reserved


@contextmanager
def _plain() -> Iterator[None]:
    with (
        patch.object(tracing, "_Tracer", _PlainTracer),
        patch("lorafit.model.trace_build.take_fast_linears", _keep),
    ):
        yield


def _keep(model: nn.Module) -> None:
    """PEFT's own layers stay."""


def _adamw(trained: Trained, question: MemoryQuestion) -> torch.optim.Optimizer:
    del question
    return torch.optim.AdamW(trained.tensors, foreach=True)


class _PlainTracer(tracing._Tracer):
    """The Trainer's step: a batch through the model with its labels, backward, AdamW."""

    def __init__(self, question: MemoryQuestion, *others: Any) -> None:
        with patch("lorafit.model.trace.build_plain", partial(_built, build_fake)):
            super().__init__(question, *others)

    def step(self) -> None:
        """Take a step as the Trainer does."""
        assert self.question.stack
        self.log.enter("forward")
        with self._precision():
            loss = _loss(self.model, tracing._batch(self.question), self.question.stack.version)
        self.log.enter("backward of the loss")
        torch.autograd.backward(loss)
        del loss
        self.log.enter("clipping")
        self.trained.clip(None)
        self.log.enter("optimizer step")
        self._update()

    def _precision(self) -> Any:
        assert self.question.stack
        return super()._precision() if self.question.stack.amp else nullcontext()


def _built(build: Callable[..., Any], question: MemoryQuestion, *others: Any) -> Any:
    """Bring weights to the dtypes in which this stack holds them."""
    attached = build(question, *others)
    for name, module in attached.model.named_modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_floating_point() and "lora_" not in name:
                size = question.norm_bytes if "norm" in name else question.embedding_bytes
                dtype = torch.float32 if size == 4 else torch.bfloat16
                if parameter.dtype != dtype:
                    module._parameters[key] = nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad)
    return attached


def _loss(model: PreTrainedModel, batch: DeviceBatch, version: tuple[int, ...]) -> torch.Tensor:
    """Cross-entropy as transformers computed it then: from 4.46 on the 16-bit logits outlive their float32 copy.

    It was computed within the model's forward, whose frame holds the last states. Rows were several, and a flat one is
    not copied by a shift: the copy is made all the same.
    """
    states: list[torch.Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda head, inputs: states.append(inputs[0]))
    logits = model(**_inputs(batch)).logits
    hook.remove()
    wide = logits.float()
    if version < (4, 46):
        del logits
    shifted = wide[:, :-1].clone() if version < (4, 49) else wide
    return nn.functional.cross_entropy(shifted[0], torch.zeros(shifted.shape[1], dtype=torch.long))
