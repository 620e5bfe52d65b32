"""The exact answer to a question about memory: the real training step, traced on fake tensors."""

import gc
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lorafit.errors import ModelError, first_line
from lorafit.model.adapt import base_of
from lorafit.model.batch import DeviceBatch
from lorafit.model.head_loss import take_as_plain
from lorafit.model.loss import summed_loss
from lorafit.model.memory import decoder_layers
from lorafit.model.trace_build import build_fake
from lorafit.model.trace_card import card_semantics
from lorafit.model.trace_log import Peak, StorageLog
from lorafit.model.trace_plain import build_plain, plain_kernels, plain_loss
from lorafit.model.trained import Trained
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.unroll import Recording

NOTHING_ELSE = "there is no table of this family, so nothing else estimates it; try a run: it proves the model first"
OptimizerBuilder = Callable[[Trained, MemoryQuestion], torch.optim.Optimizer]


@dataclass(frozen=True)
class Trace:
    """What was live in a step; `owners` says whose a storage is, by its number."""

    peaks: dict[str, Peak]  # by phase
    owners: dict[int, str]
    recording: Recording
    seconds: float


def trace(
    question: MemoryQuestion, config: Mapping[str, object], layers: int, build_optimizer: OptimizerBuilder
) -> Trace:
    """Trace a step of a model with so many layers, after one that only made the optimizer's states. ModelError."""
    started = time.perf_counter()
    logging.getLogger("torch._subclasses").setLevel(logging.CRITICAL)  # what cannot be traced is said below, once
    log = StorageLog()
    try:
        return _traced(question, config, layers, build_optimizer, log, started)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise ModelError(
            f"the step of {question.shape.name} cannot be traced: {first_line(error)}",
            where="--exact",
            fix=NOTHING_ELSE
            if question.shape.read_off
            else "leave --exact out for the estimate without the model's code",
            code="E4-TRACE",
        ) from None


def _traced(
    question: MemoryQuestion,
    config: Mapping[str, object],
    layers: int,
    build_optimizer: OptimizerBuilder,
    log: StorageLog,
    started: float,
) -> Trace:
    kernels = plain_kernels(padded=question.stack.padded) if question.stack else nullcontext()
    card = card_semantics(_lengths(question))
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), card, kernels, log:
        warnings.simplefilter("ignore")  # of libraries, about values that are not there
        tracer = _Tracer(question, config, layers, build_optimizer, log)
        built = log.last_number
        tracer.prepare()
        log.start_over()
        held, layer_of = log.events, tracer.layer_of()
        log.events = []
        tracer.step()
        peaks, events, phases = log.peaks, list(log.events), log.phases  # the log goes on: the model dies after this
    recording = Recording(
        weights=[event for event in held if event[0] <= built],
        states=[event for event in held if event[0] > built],
        step=events,
        phases=phases,
        layer_of=layer_of,
        layers=layers,
    )
    return Trace(peaks, tracer.owners, recording, time.perf_counter() - started)


class _Tracer:
    def __init__(
        self,
        question: MemoryQuestion,
        config: Mapping[str, object],
        layers: int,
        build_optimizer: OptimizerBuilder,
        log: StorageLog,
    ) -> None:
        self.question, self.log = question, log
        attached = (build_plain if question.stack else build_fake)(question, config, layers)
        self.model = attached.model
        if question.plain_head:
            take_as_plain(base_of(self.model))
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.trained = Trained(named, flat=question.flat_trained)
        gc.collect()
        log.start_over()
        self.owners = self._owners()
        self.optimizer = build_optimizer(self.trained, question)
        self._announce_layers()

    def _owners(self) -> dict[int, str]:
        owners = dict.fromkeys((birth.number for birth in self.log.live.values()), "weights")
        own = "weights" if self.question.is_full else f"{self.question.adapter.kind} weights"
        return owners | dict.fromkeys(self.log.numbers(self.trained.tensors), own)

    def layer_of(self) -> dict[int, int]:
        """Say of every held tensor of one layer which layer it is; a buffer over all layers is of none."""
        found: dict[int, set[int]] = {}
        for index, layer in enumerate(decoder_layers(self.model)):
            held = [*layer.parameters(), *layer.buffers()]
            states = [self.optimizer.state.get(parameter, {}) for parameter in held]
            held += [x for state in states for x in state.values() if isinstance(x, torch.Tensor)]
            scales = [scale for parameter in held for scale in _scales(getattr(parameter, "quant_state", None))]
            int8: list[Any] = [module for module in layer.modules() if hasattr(module, "state")]
            rows = [module.state.SCB for module in int8]
            for number in self.log.numbers([*held, *scales, *rows]):
                found.setdefault(number, set()).add(index)
        return {number: layers.pop() for number, layers in found.items() if len(layers) == 1}

    def _announce_layers(self) -> None:
        """Have each layer say when its forward begins and ends, and when its backward begins."""
        for index, layer in enumerate(decoder_layers(self.model)):
            layer.register_forward_pre_hook(self._begin(index))
            layer.register_forward_hook(self._end(index))

    def _begin(self, index: int) -> Callable[..., None]:
        def begin(module: nn.Module, args: object) -> None:
            if not self.log.phase.startswith("backward"):
                self.log.enter(f"forward of layer {index}")

        return begin

    def _end(self, index: int) -> Callable[..., None]:
        def reached(gradient: torch.Tensor) -> None:
            self.log.enter(f"backward of layer {index}")

        def end(module: nn.Module, args: object, output: Any) -> None:
            if not self.log.phase.startswith("backward"):
                tensor = output[0] if isinstance(output, tuple) else output
                if tensor.requires_grad:
                    tensor.register_hook(reached)
                self.log.enter("loss, forward")

        return end

    def prepare(self) -> None:
        """Have the optimizer make its states, as in a first step."""
        self.log.enter("first step")
        for tensor in self.trained.tensors:
            tensor.grad = torch.empty_like(tensor)
        self._update()

    def step(self) -> None:
        """Take a step as the training loop does."""
        self.log.enter("forward")
        total = torch.zeros(())
        for _ in range(2 if self.question.accumulation else 1):
            self.log.enter("forward")
            with self._precision():
                nats = self._loss()
            self.log.enter("backward of the loss")
            torch.autograd.backward(nats / self.question.target_tokens)
            total += nats.detach()
            del nats
            self.log.enter("laying gradients flat")
            self.trained.gather()
        gradients = [t.grad for t in self.trained.tensors if t.grad is not None]
        self.owners |= dict.fromkeys(self.log.numbers(gradients), "gradients")
        del gradients
        self.log.enter("clipping")
        self.trained.clip(None)
        self.log.enter("optimizer step")
        self._update()

    def _loss(self) -> torch.Tensor:
        if self.question.stack:
            return plain_loss(base_of(self.model), self.question)
        return summed_loss(self.model, _batch(self.question))

    def _update(self) -> None:
        self.optimizer.step()
        self.trained.zero_grad()
        states = [x for state in self.optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
        self.owners |= dict.fromkeys(self.log.numbers(states), "optimizer states")

    def _precision(self) -> Any:
        if not self.question.autocast:
            return nullcontext()
        return torch.autocast("cpu", getattr(torch, self.question.dtype))


def _scales(state: Any) -> list[torch.Tensor]:
    """The tensors by which a packed weight is unpacked."""
    if state is None:
        return []
    own = [x for x in (state.absmax, state.code, state.offset) if x is not None]
    return own + _scales(state.state2)


def _batch(question: MemoryQuestion) -> DeviceBatch:
    """Full rows, each one document: every position predicts, or the document does."""
    tokens, rows = question.tokens, question.micro_batch_size
    predicting = rows if question.classes else question.target_tokens
    return DeviceBatch(
        input_ids=torch.zeros(1, tokens, dtype=torch.long),
        position_ids=torch.zeros(1, tokens, dtype=torch.long),
        boundaries=torch.zeros(rows + 1, dtype=torch.int32),
        lengths=_lengths(question),
        predicting=torch.zeros(predicting, dtype=torch.long),
        targets=torch.zeros(predicting, dtype=torch.long),
    )


def _lengths(question: MemoryQuestion) -> tuple[int, ...]:
    return (question.max_length,) * question.micro_batch_size
