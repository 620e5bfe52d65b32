"""The estimate beside the trace of the real step: the model as it is built for a run, the loop's own optimizer."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from lorafit.errors import RecipeError
from lorafit.model.trace_depth import exact
from lorafit.model.trained import Trained
from lorafit.plan.picture import draw
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.reserved import reserve
from lorafit.plan.stack import Stack
from lorafit.plan.traced import as_traced
from lorafit.plan.units import MIB
from lorafit.plan.unroll import training
from lorafit.plan.vram import Answer
from lorafit.recipe.optimizers import OPTIMIZERS, SMALLEST_PAGED_VALUES
from lorafit.recipe.schema import TrainingSpec
from lorafit.report.picture import write_picture
from lorafit.report.progress import say
from lorafit.train.optimizer import build_optimizer


def with_trace(answer: Answer, picture: Path | None = None) -> Answer:
    """Add the exact peak to an answer, and draw the step into a file.

    ModelError where the model cannot be built, RecipeError for a split base and for another program than is installed,
    StorageError where nothing can be written.
    """
    _check_program(answer.question)
    if answer.question.sharded:
        raise RecipeError(
            "--exact traces a process that holds the whole base, and this one would be split over the GPUs",
            fix="leave out --exact, or ask with --sharding none", code="E2-NOT-BUILT",
        )  # fmt: skip
    say(f"Tracing a step of {answer.asked}: seconds, but minutes for layers that go from token to token")
    found = exact(answer.question, answer.model.config, fake_optimizer)
    if picture:
        beside = f"allocated over a step, beside {found.workspace_bytes / MIB:.0f} MiB of cuBLAS"
        write_picture(picture, draw(found.recording, f"{answer.asked}, {answer.question.method}: {beside}"))
    capacity = answer.fit.card.capacity_bytes if answer.fit else None
    held = reserve(training(found.recording), capacity, found.workspace_bytes)
    found = found._replace(reserved=held)
    return as_traced(answer, found) if answer.question.shape.read_off else answer._replace(exact=found)


def _check_program(question: MemoryQuestion) -> None:
    """Let lorafit's step pass, and that of transformers as it is installed and its Trainer trains."""
    stack = question.stack
    if stack is None:
        return
    ours = Stack(upcast=stack.upcast, amp=stack.amp, padded=stack.padded, kernel=stack.kernel)
    if stack != ours or stack.kernel == "flash_attention_2" or question.classes:
        raise RecipeError(
            "--exact traces the step of the transformers that is installed, of a language model, by torch's kernels or "
            "eager, with no habit but no-amp and padded",
            where="--engine", fix="leave out --exact, or the version and what else is not traced", code="E2-USAGE",
        )  # fmt: skip


def fake_optimizer(trained: Trained, question: MemoryQuestion) -> torch.optim.Optimizer:
    """Make the run's optimizer so that it lays its states out as on a card, and updates nothing."""
    kind = OPTIMIZERS[question.optimizer]
    device = torch.device("cuda" if kind.paged else "cpu")
    with patch("bitsandbytes.optim.optimizer.Optimizer8bit.fill_qmap", _no_update):  # a table of values
        optimizer: Any = build_optimizer(trained, TrainingSpec(optimizer=question.optimizer), device)
    if isinstance(optimizer, torch.optim.AdamW):
        return optimizer
    optimizer.name2qmap = {"dynamic": torch.empty(256), "udynamic": torch.empty(256)}
    optimizer.update_step = _no_update

    def state_buffer(parameter: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Paged states lie outside what torch allocates."""
        away = kind.paged and parameter.numel() >= SMALLEST_PAGED_VALUES
        return torch.zeros_like(parameter, dtype=dtype, device="meta" if away else None)

    optimizer.get_state_buffer = state_buffer
    return optimizer  # type: ignore[no-any-return]


def _no_update(*args: object) -> None:
    """The update itself needs no memory, and fake tensors have no kernel for it."""
