"""Does cost grow as the work does? Speed and memory of a step over row length, rank, layers and rows.

    python -m scripts.bench.growth [--json FILE] [--picture FILE]

Every point is measured in a child of its own (its peak is its own), on one thread, by processor time, so that a busy
machine measures the same. Speed stands beside operations at one constant rate, memory beside the estimate.
"""

import argparse
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
    peak_bytes: int
    estimated_bytes: int

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.tokens_per_second * self.flops_per_token


def measure(work: Work, value: int) -> Point:
    """Train a few steps in a child; its memory is what it holds beyond this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        answer = json.dumps(_in_child(work))
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answers:
        said = answers.read()
    os.waitpid(child, 0)
    if not said:
        raise RuntimeError(f"the child died at {value}: {work}")
    found = json.loads(said)
    return Point(value, found["rate"], work.flops_per_token, found["peak"], expected_bytes(work))


def _in_child(work: Work) -> dict[str, float]:
    torch.set_num_threads(1)
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
    lines = ["| | | tokens/s | GFLOP/s | peak MiB | estimate MiB |", "|---|---|---|---|---|---|"]
    for name, points in found.items():
        for point in points:
            cells = (point.tokens_per_second, point.rate / 1e9, point.peak_bytes / 2**20, point.estimated_bytes / 2**20)
            lines.append(f"| {name} | {point.value:,} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |")
    return lines


def main() -> None:
    """Measure every sweep; print the table, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--sweeps", nargs="*", default=list(SWEEPS))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, list[Point]] = {}
    for name in asked.sweeps:
        change, values = SWEEPS[name]
        found[name] = [measure(change(BASE, value), value) for value in values]
        print(f"{name}: {len(values)} points", file=sys.stderr, flush=True)
    print("\n".join(rows(found)))
    if asked.json:
        record: dict[str, Any] = {name: [vars(point) for point in points] for name, points in found.items()}
        asked.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if asked.picture:
        asked.picture.write_text(picture(panels(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
