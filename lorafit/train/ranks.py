"""The processes of a run: who am I, and how we add up."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import nn


class Ranks:
    """This process among the others. Collectives and the device come from accelerate."""

    def __init__(self) -> None:
        # accelerate's backward would divide by its own accumulation count, so that stays 1
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), gradient_accumulation_steps=1)
        self.device: torch.device = self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes

    @property
    def is_first(self) -> bool:
        """One process writes the run folder and the terminal."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add a tensor over all processes."""
        return values if self.count == 1 else self.accelerator.reduce(values, "sum")

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add gradients over all processes, in one collective; a process that had no rows adds zeros."""
        if self.count == 1:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in parameters])
        pieces = torch.split(self.sum(flat), [p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter).to(parameter.dtype)

    def wait(self) -> None:
        """Wait until every process is here."""
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group."""
        self.accelerator.end_training()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
