"""What a checkpoint holds: the trained weights, the optimizer's state, and a few numbers. No pickle."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lorafit.errors import ResumeRefused
from lorafit.model.trained import Trained
from lorafit.train.optimizer import optimizer_tensors, restore_optimizer

WEIGHTS = "adapter.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
UNKNOWN = -1  # in checkpoints of before it was noted


@dataclass
class Position:
    """Where a run stands. The order of the data, the rate and the dropout follow from the step alone."""

    step: int = 0  # updates made
    micro_batch_size: int = 0  # what `auto`, or memory running out, has made of it; dropout is drawn by it
    recomputed_layers: int | None = UNKNOWN  # what `auto` has made of it; None: all, as many as there may be
    validation_loss: float | None = None  # the last
    best_loss: float | None = None
    best_step: int | None = None
    reference_loss: float | None = None  # what the next has to beat by min_delta
    stale_evaluations: int = 0  # since it was beaten
    seconds: float = 0.0  # spent, and
    tokens: int = 0  # trained, in all sessions of this run


def write_weights(folder: Path, trained: Trained) -> None:
    """Write what is trained, by name."""
    save_file({name: p.detach().to("cpu").contiguous() for name, p in trained.named.items()}, folder / WEIGHTS)


def write_checkpoint(
    folder: Path,
    position: Position,
    trained: Trained,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the files of a checkpoint into a folder that the caller commits."""
    write_weights(folder, trained)
    save_file(optimizer_tensors(optimizer, trained), folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps(asdict(position), indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Saved:
    """What was read of a checkpoint, on the host."""

    weights: Mapping[str, torch.Tensor]
    moments: Mapping[str, torch.Tensor]
    position: Position


def read_checkpoint(folder: Path) -> Saved:
    """Read the files of a verified checkpoint."""
    position = Position(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    return Saved(load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER), position)


def restore(saved: Saved, trained: Trained, optimizer: torch.optim.Optimizer) -> Position:
    """Put a checkpoint back, bit for bit. ResumeRefused when it is of another shape."""
    restore_weights(saved.weights, trained.named)
    restore_optimizer(optimizer, trained, saved.moments)
    return saved.position


def restore_weights(saved: Mapping[str, torch.Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    """Put the trained weights of a checkpoint back. ResumeRefused when they are others."""
    same = saved.keys() == parameters.keys() and all(saved[n].shape == p.shape for n, p in parameters.items())
    if not same:
        raise ResumeRefused(
            "the checkpoint holds other weights than the recipe trains",
            fix="start anew with --fresh",
            code="E10-WEIGHTS",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
