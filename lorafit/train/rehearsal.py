"""What a run will ask of the machine at its most, once before it trains: what must fail fails in the first minute."""

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lorafit.data.order import packs_at
from lorafit.data.packing import Packs
from lorafit.data.prepare import PreparedData
from lorafit.data.token_rows import TokenRows
from lorafit.model.memory import peak_memory_bytes
from lorafit.recipe.adapters import Full
from lorafit.recipe.optimizers import OPTIMIZERS, SMALLEST_PAGED_VALUES
from lorafit.report.units import gibibytes
from lorafit.train.checkpoint import write_weights
from lorafit.train.finite import UNTRAINED, check_finite
from lorafit.train.loop import Loop
from lorafit.train.record import Record

EVENT = "rehearsal"
WINDOWS_LOOKED_AT = 1000  # those whose longest rows are the longest


def rehearse(loop: Loop, data: PreparedData, record: Record, step: int) -> None:
    """Take the longest pass forward and backward, evaluate the longest, save and read back; change nothing.

    A run that goes on after `step` steps does so only where it has not yet, on such a machine and with such sizes.

    Weights, the optimizer and random numbers are afterwards what they were before, and no gradient is left. Raises
    what a step or a save raises: OutOfMemory, NumericalError before step 1, StorageError.
    """
    if step and loop.ranks.from_first(lambda: _was_done(loop, record)):
        return
    cards = [loop.ranks.device] if loop.ranks.device.type == "cuda" else []
    started = time.perf_counter()
    with torch.random.fork_rng(cards):
        tokens = _passes(loop, data)
    passed = time.perf_counter()
    saved = _save(loop, record)
    peak, now = peak_memory_bytes(loop.ranks.device), time.perf_counter()
    facts = {"seconds": round(now - started, 3), "tokens": tokens, "peak_bytes": peak, "saved_bytes": saved}
    record.event(EVENT, facts | {"configuration": _configuration(loop)})
    record.say(
        f"rehearsal: the longest pass ({tokens:,} tokens) and an evaluation in {passed - started:.1f} s, peak "
        f"{gibibytes(peak)}; {gibibytes(saved)} saved and read back in {now - passed:.1f} s"
    )


def _configuration(loop: Loop) -> dict[str, object]:
    """Name what decides how a rehearsal goes: the machine's device and the sizes of a pass."""
    device = loop.ranks.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": loop.ranks.count,
        "micro_batch_size": loop.micro_batch_size,
        "recomputed_layers": loop.plan.recomputed_layers,
    }


def _was_done(loop: Loop, record: Record) -> bool:
    """Say whether this run has rehearsed just this before."""
    done = [event.get("configuration") for event in record.events() if event.get("event") == EVENT]
    return _configuration(loop) in done


def _passes(loop: Loop, data: PreparedData) -> int:
    """Take the longest passes, in fewer rows where those do not fit; give this process's tokens."""
    longest = np.arange(0)

    def work() -> torch.Tensor:
        nonlocal longest
        longest = longest_pass(loop, data.train, data.train_packs)
        return _pass(loop, data, longest)

    total, norm = loop.within_memory(work, 2).tolist()  # added up, so that all raise or none
    numbers = {"the loss of the longest pass": total, "the norm of its gradient": norm}
    check_finite("before the first step", numbers, UNTRAINED, "nothing was trained")
    return data.train_packs.tokens(data.train, longest)


def _pass(loop: Loop, data: PreparedData, longest: NDArray[np.int64]) -> torch.Tensor:
    """Go forward and backward beside all that lives then, and evaluate; give the nats and the gradient's norm, [2]."""
    others = _what_else_lives(loop)
    nats = loop.backward(longest, data.train_packs.target_tokens(data.train, longest))
    found = torch.stack([nats, loop.trained.clip(None)])
    del others
    loop.trained.zero_grad()
    if data.validation is not None and data.validation_packs is not None:
        _evaluate(loop, data.validation, data.validation_packs)
    return found


def _evaluate(loop: Loop, rows: TokenRows, packs: Packs) -> None:
    loop.model.eval()
    try:
        longest = np.argsort(-packs.tokens_of_each(rows), kind="stable")[: loop.micro_batch_size]
        loop.forward(rows, packs, longest)
    finally:
        loop.model.train()


def longest_pass(loop: Loop, rows: TokenRows, packs: Packs) -> NDArray[np.int64]:
    """Find the pass of this process with the most tokens, over all steps of the run that are whole."""
    size = min(loop.plan.global_batch_size, loop.plan.total_packs)
    steps = loop.plan.total_packs // size
    windows: NDArray[np.int64] = packs_at(range(steps * size), loop.recipe.seed, loop.plan.packs).reshape(steps, size)
    if loop.dealt_by is not None:
        return _longest_dealt(loop, windows, loop.dealt_by)
    tokens = packs.tokens_of_each(rows)[windows]
    passes = [columns for columns, _ in loop.passes(np.arange(size))] or [np.arange(1)]
    sums = np.stack([tokens[:, columns].sum(axis=1) for columns in passes])
    place, step = np.unravel_index(sums.argmax(), sums.shape)
    longest: NDArray[np.int64] = windows[step, passes[place]]
    return longest


def _longest_dealt(loop: Loop, windows: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find it where packs are dealt by their tokens: among the windows that may have the longest, and not in all."""
    most = -np.sort(-tokens[windows], axis=1)[:, : loop.micro_batch_size].sum(axis=1)  # of a pass, at the utmost
    longest = windows[0, :1]
    for step in np.argsort(-most, kind="stable")[:WINDOWS_LOOKED_AT]:
        if most[step] <= tokens[longest].sum():
            break
        passes = [chosen for chosen, _ in loop.passes(windows[step], tokens)]
        longest = max([longest, *passes], key=lambda chosen: int(tokens[chosen].sum()))
    return longest


def _what_else_lives(loop: Loop) -> list[torch.Tensor]:
    """Take the room of what a first step does not find yet: the optimizer's moments, the gradients of a pass before.

    On the CPU memory that nobody writes to takes no room, and only the gradients are made.
    """
    kind = OPTIMIZERS[loop.recipe.training.optimizer]
    sizes = [tensor.numel() for tensor in loop.trained.tensors]
    moments = sum(kind.state_bytes(size) for size in sizes if not (kind.paged and size >= SMALLEST_PAGED_VALUES))
    if loop.plan.micro_batches > 1:
        for tensor in loop.trained.named.values():
            tensor.grad = torch.zeros_like(tensor)
        loop.trained.gather()
    return [torch.empty(moments, dtype=torch.uint8, device=loop.ranks.device)]


def _save(loop: Loop, record: Record) -> int:
    """Save the adapter, read it back and let it go; give its bytes. StorageError where a checkpoint would not fit.

    A whole model is not written, which takes minutes: that it has room is looked at.
    """
    values = [tensor.numel() for tensor in loop.trained.tensors]
    weights = 4 * sum(values)
    room = weights + sum(OPTIMIZERS[loop.recipe.training.optimizer].state_bytes(size) for size in values)

    def fill(folder: Path) -> None:
        if not isinstance(loop.recipe.adapter, Full):
            write_weights(folder, loop.trained)

    record.try_saving(fill, room)
    return 0 if isinstance(loop.recipe.adapter, Full) else weights
