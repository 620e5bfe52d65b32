"""One step, exactly: the gradient of the summed loss over the global batch, divided once by its targets."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from lorafit.data.batch import flat_batch
from lorafit.data.order import packs_at, positions_of_step
from lorafit.data.packing import Packs
from lorafit.data.token_rows import TokenRows
from lorafit.errors import first_line
from lorafit.model.batch import DeviceBatch, to_device
from lorafit.model.loss import summed_loss
from lorafit.model.memory import recompute_activations
from lorafit.model.trained import Trained
from lorafit.plan.plan import Plan
from lorafit.plan.schedule import learning_rate_at
from lorafit.recipe.schema import Recipe
from lorafit.train.dealing import share
from lorafit.train.optimizer import set_learning_rate, update
from lorafit.train.prefetch import Place, Prefetch
from lorafit.train.ranks import Ranks
from lorafit.train.taken import Late, Taken

Pass = tuple[NDArray[np.int64], float]  # packs, and 1 if their loss counts


@dataclass
class Loop:
    """What a step needs. `micro_batch_size` may shrink when memory runs out: the same batch, in more passes."""

    recipe: Recipe
    plan: Plan
    model: PreTrainedModel
    trained: Trained
    optimizer: torch.optim.Optimizer
    rows: TokenRows
    packs: Packs
    ranks: Ranks
    precision: AbstractContextManager[object]
    micro_batch_size: int
    offloaded: bool = False  # what recomputed layers keep waits on the host
    in_step: bool = False  # every process makes as many passes as the others, for in each all gather the base

    def __post_init__(self) -> None:
        self.failed = torch.zeros((), device=self.ranks.device)  # 1 from the first step on that was not finite
        self.model.train()  # once, since it walks through every module; an evaluation sets it back
        self.batches = Prefetch(self._from, self._make, self.ranks.device)

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The trained parameters by name."""
        return self.trained.named

    def step(self, step: int) -> Taken:
        """Queue update number `step` (from 0). Where a value is not finite it, and those after it, change nothing."""
        started = time.perf_counter()
        window = self._window(step)
        targets = self.packs.target_tokens(self.rows, window)
        (nats,) = self.within_memory(lambda: self.accumulate(step, targets), 1)
        self.ranks.sum_gradients(self.trained.tensors)
        norm = self.trained.clip(self.recipe.training.max_grad_norm)
        self.failed = torch.maximum(self.failed, 1 - (nats.isfinite() & norm.isfinite()).float())
        rate = learning_rate_at(step, self.plan.total_steps, self.recipe.training)
        set_learning_rate(self.optimizer, rate)
        update(self.optimizer, self.failed)
        self.trained.zero_grad()
        return Taken(
            step=step + 1,
            lr=rate,
            tokens=self.packs.tokens(self.rows, window),
            target_tokens=targets,
            late=Late([nats, norm]),
            device=self.ranks.device,
            started=started,
        )

    def recompute(self, layers: int | None) -> None:
        """Recompute the first so many layers from now on (None: all), whatever was planned."""
        if layers != self.plan.recomputed_layers:
            recompute_activations(self.model, layers, offloaded=self.offloaded)
            self.plan = self.plan._replace(recomputed_layers=layers, gradient_checkpointing=layers != 0)

    def close(self) -> None:
        """End the thread that makes batches."""
        self.batches.close()

    def within_memory(self, work: Callable[[], torch.Tensor], numbers: int) -> torch.Tensor:
        """Do it in all processes, and add up the so many numbers [numbers] that it gives in each.

        Where the device of any is full, all halve the micro-batch and do it again: they ask each other, so that all
        decide alike. torch.OutOfMemoryError, in all, at one row. The work asks nothing of the others, but where the
        base is split: who is full there leaves others waiting within a layer, and ends.
        """
        while True:
            mine, why = self._unless_full(work, numbers)
            if self.ranks.any_of([bool(why)]) == [False]:
                return self.ranks.sum(mine)
            self.trained.zero_grad()
            if self.micro_batch_size == 1:
                raise torch.OutOfMemoryError(why or "the device of another process is full")
            self.micro_batch_size = -(-self.micro_batch_size // 2)
            self.batches.forget()
            torch.cuda.empty_cache()

    def _unless_full(self, work: Callable[[], torch.Tensor], numbers: int) -> tuple[torch.Tensor, str]:
        """Give what the work gives, or zeros and how the device said that it is full."""
        try:
            return work(), ""
        except torch.OutOfMemoryError as error:
            if self.in_step:
                raise
            why = first_line(error)  # and not the error, which holds on to the frames of the pass
        return torch.zeros(numbers, device=self.ranks.device), why

    def accumulate(self, step: int, targets: int) -> torch.Tensor:
        """Add up the gradient over this process's share of a step; give the nats of that share, [1]."""
        total = torch.zeros(1, device=self.ranks.device)
        for index, (_, counts) in enumerate(self.passes(self._window(step), self.dealt_by)):
            torch.manual_seed(micro_batch_seed(self.recipe.seed, step, index, self.ranks.rank))
            batch = self.batches.take((step, index))
            with self.precision:
                nats = summed_loss(self.model, batch) * counts
            torch.autograd.backward(nats / targets)  # accelerate's own would scale it by what the environment says
            self.trained.gather()
            total += nats.detach()
        self.trained.gather()  # a process without rows adds zeros
        return total

    def backward(self, packs: NDArray[np.int64], targets: int) -> torch.Tensor:
        """Make the gradient of one pass of training rows; give its nats."""
        nats = self.forward(self.rows, self.packs, packs)
        torch.autograd.backward(nats / targets)
        self.trained.gather()
        return nats.detach()

    def forward(self, rows: TokenRows, packs: Packs, chosen: NDArray[np.int64]) -> torch.Tensor:
        """Give the nats of some packs."""
        with torch.set_grad_enabled(self.model.training), self.precision:
            return summed_loss(self.model, to_device(flat_batch(rows, packs, chosen), self.ranks.device))

    @cached_property
    def dealt_by(self) -> NDArray[np.int64] | None:
        """Tokens of every training pack, by which they are dealt to processes; None where packs are all but full."""
        uneven = self.ranks.count > 1 and not self.recipe.data.packing
        return self.packs.tokens_of_each(self.rows) if uneven else None

    def passes(self, window: NDArray[np.int64], tokens: NDArray[np.int64] | None = None) -> list[Pass]:
        """Cut this process's share of a window into passes; in step, what others have more goes by without counting.

        `tokens` are those of every pack there is, where packs are to be dealt by them.
        """
        ranks, size = self.ranks, self.micro_batch_size
        mine = share(window, ranks.rank, ranks.count, None if tokens is None else tokens[window])
        passes = [(mine[start : start + size], 1.0) for start in range(0, len(mine), size)]
        most = -(-len(share(window, 0, ranks.count)) // size)
        spare = most - len(passes) if self.in_step else 0
        return passes + [(window[:1], 0.0)] * spare

    def _window(self, step: int) -> NDArray[np.int64]:
        """Give the packs of a step."""
        positions = positions_of_step(step, self.plan.global_batch_size, self.plan.total_packs)
        return packs_at(positions, self.recipe.seed, self.plan.packs)

    def _from(self, place: Place) -> Iterator[tuple[Place, NDArray[np.int64]]]:
        """Give the micro-batches of the run from one on."""
        first, skipped = place
        for step in range(first, self.plan.total_steps):
            for index, (packs, _) in enumerate(self.passes(self._window(step), self.dealt_by)):
                if step > first or index >= skipped:
                    yield (step, index), packs

    def _make(self, packs: NDArray[np.int64]) -> DeviceBatch:
        return to_device(flat_batch(self.rows, self.packs, packs), self.ranks.device)


def micro_batch_seed(seed: int, step: int, index: int, rank: int) -> int:
    """Derive the dropout seed, so that a killed, resumed or repeated step draws the same masks."""
    digest = hashlib.sha256(f"{seed} {step} {index} {rank}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
