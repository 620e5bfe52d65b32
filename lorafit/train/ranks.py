"""The processes of a run: who am I, how we add up, and who hears about it."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from lorafit.errors import LorafitError, MachineError, RankLost, first_line
from lorafit.plan.trackers import missing_trackers

T = TypeVar("T")


@contextmanager
def noticing_losses() -> Iterator[None]:
    """Turn what a collective says of another process's end into RankLost.

    Collectives are everywhere: in a step, in the forward of a split base, beside a save. gloo has no error class.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        fix = "go on with --resume"
        raise RankLost(f"another process is gone: {first_line(error)}", fix=fix, code="E11-RANK") from None


class Ranks:
    """This process among the others. Collectives, the device and the trackers come from accelerate."""

    def __init__(self, trackers: Sequence[str] = (), tracker_folder: Path | None = None) -> None:
        missing = missing_trackers(trackers)
        if missing:
            raise MachineError(missing)
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",  # precision is the loop's, whatever the environment says
            log_with=list(trackers) or None,
            project_dir=tracker_folder if trackers else None,
        )
        if trackers:
            self.accelerator.init_trackers("lorafit")
        self.device: torch.device = self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes
        self.hosts: Any = None  # the group in which hosts ask each other; None: that of all else, on a CPU
        if self.count > 1 and self.device.type == "cuda":
            self.hosts = torch.distributed.new_group(backend="gloo")
        self.here = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))  # processes on this machine

    @property
    def is_first(self) -> bool:
        """One process writes the run folder and the terminal."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add a tensor over all processes."""
        if self.count == 1:
            return values
        total: torch.Tensor = self.accelerator.reduce(values, "sum")
        return total

    def from_first(self, make: Callable[[], T]) -> T:
        """Give what the first process makes to all, whatever files the others see. What stops it stops all."""
        if self.count == 1:
            return make()
        box: list[T | LorafitError] = [LorafitError("nothing was told")]
        if self.is_first:
            try:
                box = [make()]
            except LorafitError as error:
                box = [error]
        torch.distributed.broadcast_object_list(box, src=0)
        if isinstance(told := box[0], LorafitError):
            raise told if self.is_first else type(told)("the first process could not go on, and says why")
        return told

    def least(self, number: int) -> int:
        """Give the smallest of all processes' numbers, so that all decide alike."""
        if self.count == 1:
            return number
        mine = torch.zeros(self.count, dtype=torch.int64, device=self.device)
        mine[self.rank] = number
        return int(self.sum(mine).min())

    def any_of(self, mine: Sequence[bool]) -> list[bool]:
        """Say of each question whether any process says yes. The hosts ask each other: no card is waited for."""
        if self.count == 1:
            return list(mine)
        said = torch.tensor(mine, dtype=torch.uint8)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX, group=self.hosts)
        return [bool(answer) for answer in said.tolist()]

    def sum_gradients(self, tensors: Sequence[nn.Parameter]) -> None:
        """Add gradients over all processes, in one collective; a process that had no rows adds zeros.

        One float32 tensor is added up where it lies, several in a flat copy.
        """
        if self.count == 1:
            return
        gradients = [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
        if len(gradients) == 1 and gradients[0].dtype == torch.float32:
            torch.distributed.all_reduce(gradients[0])
            tensors[0].grad = gradients[0]
            return
        total = torch.cat([gradient.flatten().float() for gradient in gradients])
        torch.distributed.all_reduce(total)
        pieces = torch.split(total, [tensor.numel() for tensor in tensors])
        for tensor, gradient, piece in zip(tensors, gradients, pieces, strict=True):
            tensor.grad = gradient.copy_(piece.view_as(tensor))

    def track(self, values: Mapping[str, float], step: int) -> None:
        """Pass numbers on to the trackers of the recipe."""
        self.accelerator.log(dict(values), step=step)

    def wait(self) -> None:
        """Wait until every process is here."""
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group and close the trackers."""
        self.accelerator.end_training()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
