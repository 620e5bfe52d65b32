"""Micro-batches made ahead of their turn, on a thread, in the order in which they are asked for."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from lorafit.model.batch import DeviceBatch

AHEAD = 2  # one being made while one waits

Place = tuple[int, int]  # step, and which of its micro-batches
Packs = NDArray[np.int64]


class Prefetch:
    """Hands out the micro-batches of a run. `plan(place)` gives those from a place on, `make` lays one out."""

    def __init__(
        self,
        plan: Callable[[Place], Iterator[tuple[Place, Packs]]],
        make: Callable[[Packs], DeviceBatch],
        device: torch.device,
    ) -> None:
        self.plan, self.make = plan, make
        self.coming: Iterator[tuple[Place, Packs]] = iter(())
        self.waiting: deque[tuple[Place, Future[DeviceBatch]]] = deque()
        self.device = device
        self.thread = ThreadPoolExecutor(1, "lorafit-batches", initializer=self._begin)

    def _begin(self) -> None:
        """Name the card: a thread begins on the first, where pinning would open a context."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def take(self, place: Place) -> DeviceBatch:
        """Give the micro-batch of a place, and have the next ones made. Raises here what went wrong in making it."""
        if not self.waiting or self.waiting[0][0] != place:
            self.forget()
            self.coming = self.plan(place)
            self._fill()
        _, batch = self.waiting.popleft()
        self._fill()
        return batch.result()

    def forget(self) -> None:
        """Drop what was made: the plan has changed."""
        while self.waiting:
            self.waiting.popleft()[1].cancel()

    def close(self) -> None:
        """End the thread."""
        self.forget()
        self.thread.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        for place, packs in self.coming:
            self.waiting.append((place, self.thread.submit(self.make, packs)))
            if len(self.waiting) >= AHEAD:
                return
