"""Measure one cell: `python -m scripts.gpu.cell NAME [--device cpu] [--tiny]` prints one line of JSON."""

import argparse
import gc
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from lorafit.errors import OutOfMemory
from lorafit.plan.advice import longest_row
from lorafit.plan.memory import estimate
from scripts.bench.contenders import CONTENDERS, Step
from scripts.gpu.cells import Cell, every_cell
from scripts.gpu.kernels import linear_alone, loss_alone, products_rate
from scripts.gpu.real import Real

WARM_UP, STEPS = 2, 5
TRIES = 4  # of rows, each a twelfth longer or shorter than the one before
STRIDE = 1 + 1 / 12
OUT_OF_MEMORY = (torch.OutOfMemoryError, OutOfMemory)
Facts = dict[str, Any]


def synchronize(device: str) -> None:
    """Wait for the card."""
    if device == "cuda":
        torch.cuda.synchronize()


def memory(cell: Cell, device: str, tiny: bool) -> Facts:
    """Two steps: the second, with the optimizer's states in place, against the estimate."""
    work = Real.make(tiny=tiny, device=device, **cell.settings)
    expected = estimate(work.question)
    facts: Facts = {"estimated_bytes": expected.peak_bytes, "expected_on_card_bytes": expected.on_card_bytes}
    if device == "cuda" and expected.on_card_bytes > torch.cuda.mem_get_info()[1]:
        return facts | {"left_out": "the card is too small by the estimate"}
    return facts | peaks(work, cell.contender)


def peaks(work: Real, contender: str) -> Facts:
    """Give the most that was allocated and reserved in the second step."""
    losses: list[float] = []

    def told(step: Step) -> None:
        losses.append(step.loss)
        synchronize(work.device)
        if work.device == "cuda" and len(losses) == 1:
            torch.cuda.reset_peak_memory_stats()

    CONTENDERS[contender](work, 2, told)
    on_card = work.device == "cuda"
    return {
        "peak_bytes": torch.cuda.max_memory_allocated() if on_card else None,
        "reserved_bytes": torch.cuda.max_memory_reserved() if on_card else None,
        "losses": losses,
    }


def speed(cell: Cell, device: str, tiny: bool) -> Facts:
    """Real tokens a second, the median after a warm-up, and the share of the card's own products."""
    rate = products_rate(torch.device(device), torch.float32 if tiny else torch.bfloat16)
    work = Real.make(tiny=tiny, device=device, **cell.settings)
    times, tokens, losses = [time.perf_counter()], 0, []

    def told(step: Step) -> None:
        nonlocal tokens
        synchronize(device)
        times.append(time.perf_counter())
        tokens = step.tokens
        losses.append(step.loss)

    CONTENDERS[cell.contender](work, WARM_UP + STEPS, told)
    seconds = [after - before for before, after in pairwise(times)][WARM_UP:]
    found = tokens / statistics.median(seconds)
    return {
        "tokens_per_second": found,
        "step_seconds": seconds,
        "products_flops": rate,
        "share_of_products": found * work.flops_per_token / rate,
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "losses": losses,
    }


def row(cell: Cell, device: str, tiny: bool) -> Facts:
    """Find the longest row that trains, from the estimate on, under a limit of memory."""
    settings = dict(cell.settings)
    capacity = int(settings.pop("capacity_gb") * 1e9)
    work = Real.make(tiny=tiny, device=device, full_rows=2048, **settings)
    if device == "cuda":
        total = torch.cuda.mem_get_info()[1]
        if capacity > total:
            return {"left_out": "the card is too small"}
        torch.cuda.set_per_process_memory_fraction(capacity / total)
    guess = 64 if tiny else longest_row(work.question, capacity, 1)
    longest, tried, length = 0, {}, guess
    for _ in range(TRIES):
        tried[length] = fits = _fits(replace(work, full_rows=length))
        longest = max(longest, length) if fits else longest
        length = int(length * STRIDE) if fits else int(length / STRIDE)
        if length in tried:
            break
    return {"longest_row": longest, "estimated_row": guess, "tried": {str(k): v for k, v in tried.items()}}


def _fits(work: Real) -> bool:
    try:
        peaks(work, "lorafit")
    except OUT_OF_MEMORY:
        return False
    finally:
        gc.collect()
        if work.device == "cuda":
            torch.cuda.empty_cache()
    return True


MEASURES: dict[str, Callable[[Cell, str, bool], Facts]] = {
    "memory": memory,
    "speed": speed,
    "row": row,
    "loss": lambda _, device, tiny: loss_alone(torch.device(device), tiny=tiny),
    "linear": lambda _, device, tiny: linear_alone(torch.device(device), tiny=tiny),
}


def measure(cell: Cell, device: str, *, tiny: bool) -> Facts:
    """Measure; running out of memory is a result."""
    started = time.perf_counter()
    try:
        facts = MEASURES[cell.kind](cell, device, tiny)
    except OUT_OF_MEMORY as error:
        facts = {"out_of_memory": str(error).splitlines()[0][:200]}
    return facts | {"seconds": time.perf_counter() - started}


def main() -> None:
    """Measure the cell that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    cell = next(each for each in every_cell() if each.name == asked.name)
    answers.write(json.dumps(measure(cell, asked.device, tiny=asked.tiny)) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
