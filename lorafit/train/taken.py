"""A step that was taken: its numbers, read from the device when they are there, and not before."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorafit.model.memory import peak_memory_bytes
from lorafit.rundir.step import StepRecord
from lorafit.train.finite import TRAINED, check_finite


class Late:
    """Numbers on their way to the host: reading them does not wait for what was queued after them."""

    def __init__(self, values: Sequence[torch.Tensor]) -> None:
        together = torch.stack([value.float() for value in values])
        self.host = together.to("cpu", non_blocking=True)
        self.copied = torch.cuda.Event() if together.is_cuda else None  # type: ignore[no-untyped-call]
        if self.copied is not None:
            self.copied.record()

    @property
    def are_here(self) -> bool:
        """Nothing has to be waited for: on the CPU the work is done when it is queued."""
        return self.copied is None

    def read(self) -> list[float]:
        """Give the numbers, when they have arrived."""
        if self.copied is not None:
            self.copied.synchronize()
        return [float(value) for value in self.host.tolist()]


@dataclass(frozen=True)
class Taken:
    """Update number `step` (from 1), queued on the device. Where a value is not finite it changes nothing there."""

    step: int
    lr: float
    tokens: int
    target_tokens: int
    late: Late  # nats of the global batch, and the norm of its gradient
    device: torch.device
    started: float  # seconds, by time.perf_counter

    def record(self, since: float = 0.0) -> StepRecord:
        """Say what the step did; `since` is when the step before was read. NumericalError when it was not finite."""
        nats, norm = self.late.read()
        loss = nats / self.target_tokens
        numbers = {"the loss": loss, "the norm of the gradient": norm}
        check_finite(f"step {self.step}", numbers, TRAINED, "nothing of this step was applied")
        return StepRecord(
            step=self.step,
            loss=loss,
            lr=self.lr,
            grad_norm=norm,
            tokens=self.tokens,
            target_tokens=self.target_tokens,
            tokens_per_second=self.tokens / (time.perf_counter() - max(self.started, since)),
            peak_bytes=peak_memory_bytes(self.device),
        )
