"""Does cost grow as the work does? Speed and memory of a step over row length, rank, layers and rows.

    python -m scripts.bench.growth [--rounds N] [--json FILE] [--picture FILE]

Every point is measured in children of its own (its peak is its own), on one thread, by processor time: medians of as
many children as rounds. One child more has the C library give each freed block of 64 KiB or more back to the system,
as it does not by itself, so that it holds its tensors and little else. Speed stands beside operations at one constant
rate, those tensors beside the estimate.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch

import lorafit.train.run  # noqa: F401  # before the children part, so that they need not
from lorafit.plan.memory import WORKSPACE_BYTES, estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.recipe.quantization import Unquantized
from scripts.bench.contenders import CONTENDERS, Step
from scripts.bench.picture import Panel, picture
from scripts.bench.work import Work

MOST_STEPS, MOST_SECONDS = 3, 2.0  # of a point, the first step apart
PASS_TOKENS = 1024
ROUNDS = 3
M_MMAP_THRESHOLD, MAPPED_BYTES = -3, 2**16  # mallopt(3): blocks of this size are mapped, and unmapped when free
WARM = Work("warm-up", hidden=64, layers=1, vocabulary=100, full_rows=16, batch_rows=1)
BASE = Work("growth", hidden=256, layers=2, vocabulary=8_000, full_rows=256, batch_rows=4)


def with_length(work: Work, tokens: int) -> Work:
    """A pass of rows of so many tokens, as many rows as make about the same pass."""
    return replace(work, full_rows=tokens, batch_rows=max(1, PASS_TOKENS // tokens))


SWEEPS: dict[str, tuple[Callable[[Work, int], Work], tuple[int, ...]]] = {
    "row length": (with_length, (128, 256, 512, 1024, 2048, 4096, 8192)),
    "rank": (lambda work, value: replace(work, rank=value), (4, 16, 64, 128, 256)),
    "layers": (lambda work, value: replace(work, layers=value), (2, 4, 8, 16)),
    "rows a pass": (lambda work, value: replace(work, batch_rows=value), (1, 2, 4, 8, 16, 32)),
}


class Enough(Exception):
    """Raised when a point has been measured long enough."""


@dataclass(frozen=True)
class Point:
    """One setting: what was measured, and what follows from the shapes."""

    value: int
    tokens_per_second: float
    flops_per_token: float
    held_bytes: int  # by the process, as it comes
    peak_bytes: int  # the same where what is freed is given back
    estimated_bytes: int

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.tokens_per_second * self.flops_per_token


def measure(work: Work, value: int, rounds: int = ROUNDS) -> Point:
    """Train a few steps in each child; their memory is what they hold beyond this process."""
    found = [in_child(work) for _ in range(rounds)]
    tight = in_child(work, gives_back=True)
    rate = statistics.median(each["rate"] for each in found)
    held = round(statistics.median(each["peak"] for each in found))
    return Point(value, rate, work.flops_per_token, held, round(tight["peak"]), expected_bytes(work))


def in_child(work: Work, *, gives_back: bool = False) -> dict[str, float]:
    """Do it in a process that knows what this one has loaded, and nothing of what others did."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        answer = json.dumps(_train(work, gives_back))
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answers:
        said = answers.read()
    os.waitpid(child, 0)
    if not said:
        raise RuntimeError(f"the child died: {work}")
    found: dict[str, float] = json.loads(said)
    return found


def _train(work: Work, gives_back: bool) -> dict[str, float]:
    torch.set_num_threads(1)
    if gives_back:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
    CONTENDERS["lorafit"](WARM, 2, lambda step: None)  # code that is loaded at first use is not of the work
    before = psutil.Process().memory_info().rss
    times = [time.process_time()]
    tokens: list[int] = []

    def told(step: Step) -> None:
        times.append(time.process_time())
        tokens.append(step.tokens)
        if len(tokens) > MOST_STEPS or (len(tokens) > 1 and times[-1] - times[1] > MOST_SECONDS):
            raise Enough

    with suppress(Enough):
        CONTENDERS["lorafit"](work, MOST_STEPS + 2, told)
    seconds = statistics.median(after - start for start, after in pairwise(times[1:]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rate": tokens[0] / seconds, "peak": max(0, peak - before)}


def expected_bytes(work: Work) -> int:
    """Give the estimate of tensors; there is no cuBLAS on a CPU."""
    question = MemoryQuestion(
        shape=shape_from_config(work.config.to_dict(), "growth"),
        adapter=work.recipe(1).adapter,
        quantization=Unquantized(),
        dtype="float32",
        max_length=work.full_rows or 0,
        micro_batch_size=work.batch_rows,
        checkpointing=False,
        accumulation=False,
    )
    return estimate(question).peak_bytes - WORKSPACE_BYTES


def panels(found: dict[str, list[Point]]) -> list[Panel]:
    """Two of each sweep: speed over operations at the sweep's median rate, and memory over the estimate."""
    made = []
    for name, points in found.items():
        rate = statistics.median(point.rate for point in points)
        values = [point.value for point in points]
        speeds = [point.tokens_per_second for point in points]
        made.append(Panel(name, "tokens a second", values, speeds, [rate / point.flops_per_token for point in points]))
        peaks, expected = zip(*((p.peak_bytes / 2**20, p.estimated_bytes / 2**20) for p in points), strict=True)
        made.append(Panel(name, "MiB", values, list(peaks), list(expected)))
    return made


def rows(found: dict[str, list[Point]]) -> list[str]:
    """Give the table."""
    lines = ["| | | tokens/s | GFLOP/s | held MiB | tensors MiB | estimate MiB |", "|---|---|---|---|---|---|---|"]
    for name, points in found.items():
        for point in points:
            sizes = (size / 2**20 for size in (point.held_bytes, point.peak_bytes, point.estimated_bytes))
            cells = (point.tokens_per_second, point.rate / 1e9, *sizes)
            lines.append(f"| {name} | {point.value:,} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |")
    return lines


def main() -> None:
    """Measure every sweep; print the table, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--sweeps", nargs="*", default=list(SWEEPS))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, list[Point]] = {}
    for name in asked.sweeps:
        change, values = SWEEPS[name]
        found[name] = [measure(change(BASE, value), value, asked.rounds) for value in values]
        print(f"{name}: {len(values)} points", file=sys.stderr, flush=True)
    print("\n".join(rows(found)))
    if asked.json:
        record: dict[str, Any] = {name: [vars(point) for point in points] for name, points in found.items()}
        asked.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if asked.picture:
        asked.picture.write_text(picture(panels(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
