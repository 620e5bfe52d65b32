"""Trace the step of plain transformers + PEFT for a published run, and replay it through torch's allocator.

The model's code is that of the transformers installed; what its versions do otherwise (the loss, the upcast of norms,
AdamW over lists of tensors, reentrant recomputation) is done as the run's own version did it.

What is read of a card is what most steps hold. The benchmark of these runs asks nvidia-smi once a second through a
hundred steps, and keeps the most (scripts/benchmarks/benchmark.py of foundation-model-stack/fms-acceleration, 0055a36,
`--loop`). So it sees what comes again in each step, and misses what is held once for a part of a second, as before a
full card has its free blocks back.
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
from lorafit.model.adapt import base_of
from lorafit.model.batch import DeviceBatch
from lorafit.model.loss import _inputs
from lorafit.model.trace_build import build_fake
from lorafit.model.trained import Trained
from lorafit.plan.allocator import CachingAllocator, Event
from lorafit.plan.find_shape import find_shape
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.reserved import workspaces
from lorafit.plan.unroll import Recording, unrolled

DEPTHS = (3, 4)
HEAD = "backward of the head"


def replayed(model: str, question: MemoryQuestion, capacity_bytes: int) -> tuple[int, int]:
    """Give what is allocated at most, and what is reserved in every step but the first two; no expandable segments.

    Raises CardFull where it does not fit.
    """
    config, layers = find_shape(model).config, len(question.shape.layers)
    # an update over lists of all weights makes more tensors the more layers there are: no layer repeats it
    depths = (layers,) if question.is_full else DEPTHS
    with _plain(_TrainerTracer):
        found_at = [tracing.trace(question, config, depth, _adamw).recording for depth in depths]
    return recurring(unrolled(found_at[-1], found_at[0], layers), capacity_bytes)


def recurring(found: Recording, capacity_bytes: int) -> tuple[int, int]:
    """Give what is allocated at most in three steps, and what is reserved at most in the third, as in those after it.

    Raises CardFull.
    """
    allocator = CachingAllocator(capacity_bytes)
    allocator.play([*found.weights, *first_step(found), *found.step])
    allocator.peak_reserved = allocator.reserved
    allocator.play(found.step)
    return allocator.peak_allocated, allocator.peak_reserved


def first_step(found: Recording) -> list[Event]:
    """Give the step with what it alone makes: a workspace for the first product of each thread, and AdamW's states.

    A handle of cuBLAS is made, and its workspace taken, after a product's output (`CublasHandlePool.cpp`).
    """
    step = found.step
    forward = next(start for start, name in found.phases if "of layer" in name)
    head = next(start for start, name in found.phases if name.startswith(HEAD))
    product = next(at for at in range(head, len(step)) if step[at][1]) + 1
    update = [start for start, name in found.phases if name.startswith("optimizer step")][-1]
    own, autograds = workspaces()
    made = [*step[:forward], own, *step[forward:product], autograds, *step[product:update]]
    return [*made, *found.states, *step[update:]]


@contextmanager
def _plain(tracer: "type[_PlainTracer] | None" = None) -> Iterator[None]:
    with (
        patch.object(tracing, "_Tracer", tracer or _PlainTracer),
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


class _TrainerTracer(_PlainTracer):
    """With what else the Trainer of the run's version does: recomputation by its default, positions of one row."""

    def __init__(self, question: MemoryQuestion, *others: Any) -> None:
        super().__init__(question, *others)
        assert question.stack
        base = base_of(self.model)
        if question.checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": question.stack.reenters})
            base.enable_input_require_grads()
        _one_row_of_positions(base, question)
        base.get_output_embeddings().register_forward_hook(self._announce_head)

    def _announce_head(self, head: nn.Module, inputs: object, logits: torch.Tensor) -> None:
        logits.register_hook(lambda gradient: self.log.enter(HEAD))  # type: ignore[no-untyped-call]


def _one_row_of_positions(model: PreTrainedModel, question: MemoryQuestion) -> None:
    """Have sines and cosines of one row's length, read for all rows: those are flat here, and several there."""
    turn: Any = model.base_model.rotary_emb
    make = turn.forward

    def forward(x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tables = make(x, position_ids[:, : question.max_length])
        return tuple(torch.as_strided(each, (1, question.tokens, each.shape[-1]), (0, 0, 1)) for each in tables)

    turn.forward = forward


def _built(build: Callable[..., Any], question: MemoryQuestion, *others: Any) -> Any:
    """Bring weights to the dtypes in which this stack holds them."""
    attached = build(question, *others)
    made: dict[nn.Parameter, nn.Parameter] = {}  # a tied one stays one
    for name, module in attached.model.named_modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_floating_point() and "lora_" not in name:
                size = question.norm_bytes if "norm" in name else question.embedding_bytes
                dtype = torch.float32 if size == 4 else torch.bfloat16
                if parameter.dtype != dtype:
                    if parameter not in made:
                        made[parameter] = nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad)
                    module._parameters[key] = made[parameter]
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
