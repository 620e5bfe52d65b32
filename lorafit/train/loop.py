"""One step, exactly: the gradient of the summed loss over the global batch, divided once by its targets."""

import hashlib
import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from lorafit.data.batch import flat_batch
from lorafit.data.order import packs_at, positions_of_step
from lorafit.data.packing import Packs
from lorafit.data.token_rows import TokenRows
from lorafit.errors import NumericalError, OutOfMemory, first_line
from lorafit.model.batch import to_device
from lorafit.model.loss import summed_loss
from lorafit.model.memory import peak_memory_bytes
from lorafit.plan.plan import Plan
from lorafit.plan.schedule import learning_rate_at
from lorafit.recipe.schema import Recipe
from lorafit.rundir.step import StepRecord
from lorafit.train.optimizer import set_learning_rate
from lorafit.train.ranks import Ranks


@dataclass
class Loop:
    """What a step needs. `micro_batch_size` may shrink when memory runs out: the same batch, in more passes."""

    recipe: Recipe
    plan: Plan
    model: PreTrainedModel
    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    rows: TokenRows
    packs: Packs
    ranks: Ranks
    precision: AbstractContextManager[object]
    micro_batch_size: int

    def step(self, step: int) -> StepRecord:
        """Make update number `step` (from 0) and say what it did. Nothing is applied when a value is not finite."""
        started = time.perf_counter()
        positions = positions_of_step(step, self.plan.global_batch_size, self.plan.total_packs)
        window = packs_at(positions, self.recipe.seed, self.plan.packs)
        targets = self.packs.target_tokens(self.rows, window)
        loss = self._accumulate_within_memory(step, window, targets)
        self.ranks.sum_gradients(list(self.parameters.values()))
        norm = self._clip()
        self._check_finite(step, loss, norm)
        rate = learning_rate_at(step, self.plan.total_steps, self.recipe.training)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = self.packs.tokens(self.rows, window)
        return StepRecord(
            step=step + 1,
            loss=loss,
            lr=rate,
            grad_norm=norm,
            tokens=tokens,
            target_tokens=targets,
            tokens_per_second=tokens / (time.perf_counter() - started),
            peak_bytes=peak_memory_bytes(self.ranks.device),
        )

    def _accumulate_within_memory(self, step: int, window: NDArray[np.int64], targets: int) -> float:
        """Accumulate; when the device is full, halve the micro-batch and do the same step again."""
        while True:
            try:
                return self._accumulate(step, window, targets)
            except torch.OutOfMemoryError as error:
                self.optimizer.zero_grad(set_to_none=True)
                if self.micro_batch_size == 1 or self.ranks.count > 1:
                    raise does_not_fit(error) from None
            self.micro_batch_size = -(-self.micro_batch_size // 2)
            torch.cuda.empty_cache()

    def _accumulate(self, step: int, window: NDArray[np.int64], targets: int) -> float:
        """Add up the gradient over this process's share of the window; give the loss over all shares."""
        total = torch.zeros((), device=self.ranks.device)
        mine = share(window, self.ranks.rank, self.ranks.count)
        self.model.train()
        for index, start in enumerate(range(0, len(mine), self.micro_batch_size)):
            torch.manual_seed(micro_batch_seed(self.recipe.seed, step, index, self.ranks.rank))
            batch = flat_batch(self.rows, self.packs, mine[start : start + self.micro_batch_size])
            with self.precision:
                nats = summed_loss(self.model, to_device(batch, self.ranks.device))
            torch.autograd.backward(nats / targets)  # accelerate's own would scale it by what the environment says
            total += nats.detach()
        return float(self.ranks.sum(total)) / targets

    def _clip(self) -> float:
        """Clip the gradient to the recipe's norm; give the norm before that."""
        limit = self.recipe.training.max_grad_norm or math.inf
        return float(nn.utils.clip_grad_norm_(list(self.parameters.values()), limit))

    def _check_finite(self, step: int, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        self.optimizer.zero_grad(set_to_none=True)
        raise NumericalError(
            f"step {step + 1}: the loss is {loss}, the norm of the gradient {norm}; nothing of this step was applied",
            fix="start anew with --fresh and a lower training.learning_rate",
            code="E8-NOT-FINITE",
        )


def share(window: NDArray[np.int64], rank: int, count: int) -> NDArray[np.int64]:
    """Give a process its contiguous part of the global batch; parts differ by one row at most."""
    return np.array_split(window, count)[rank]


def micro_batch_seed(seed: int, step: int, index: int, rank: int) -> int:
    """Derive the dropout seed, so that a killed, resumed or repeated step draws the same masks."""
    digest = hashlib.sha256(f"{seed} {step} {index} {rank}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def does_not_fit(error: BaseException) -> OutOfMemory:
    """Say that memory ran out, and what takes less."""
    return OutOfMemory(
        f"out of device memory: {first_line(error)}",
        fix="set training.gradient_checkpointing: full, halve data.max_length, or quantization.kind: nf4 "
        "(lorafit estimate-vram says what each saves)",
        code="E6-OOM",
    )
