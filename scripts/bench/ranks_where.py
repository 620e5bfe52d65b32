"""Where a step of several processes goes, each process by itself: seconds by the clock and of the processor.

    python -m scripts.bench.ranks_where [--processes 1 2 ...] [--sharding none full] [--micro-rows N]

The work is that of `scripts.bench.ranks`. Functions of the loop are timed as they stand, without those timed inside
them. What a process waits for others is clock less processor; that is of the whole process, gloo's threads included.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

from lorafit.model.trained import Trained
from lorafit.train import loop
from lorafit.train.course import Course
from lorafit.train.prefetch import Prefetch
from lorafit.train.ranks import Ranks
from scripts.bench.ranks import WARM_UP, Case, prepare, run

Spent = dict[str, list[float]]  # seconds by the clock, of the processor, and how often
TIMED: list[tuple[Any, str, str]] = [
    (Prefetch, "take", "waiting for a batch"),
    (loop, "summed_loss", "forward"),
    (torch.autograd, "backward", "backward"),
    (Trained, "gather", "gradients laid flat"),
    (Ranks, "sum_gradients", "gradients"),
    (Ranks, "sum", "exchange of "),
    (Trained, "clip", "norm of the gradient"),
    (loop, "update", "optimizer"),
    (FSDPParamGroup, "unshard", "split: gather"),
    (FSDPParamGroup, "wait_for_unshard", "split: copy out"),
    (Course, "_settle", "writing down"),
    (Ranks, "any_of", "asking the others"),
    (Course, "_step", "numbers"),
]


class Watch:
    """Adds up what functions take in the step under way."""

    def __init__(self) -> None:
        self.steps: list[Spent] = []
        self.now: Spent = defaultdict(lambda: [0.0, 0.0, 0])
        self.open: list[tuple[str, list[float]]] = []  # labels, and what was spent inside them elsewhere

    def over(self, owner: Any, name: str, label: str) -> None:
        """Time every call of a function."""
        work: Callable[..., Any] = getattr(owner, name)

        @wraps(work)
        def timed(*given: Any, **named: Any) -> Any:
            self.open.append((label + self.open[-1][0] if label.endswith(" of ") and self.open else label, [0.0, 0.0]))
            began, worked = time.perf_counter(), time.process_time()
            try:
                return work(*given, **named)
            finally:
                self._close(time.perf_counter() - began, time.process_time() - worked)

        setattr(owner, name, timed)

    def _close(self, clock: float, processor: float) -> None:
        label, inside = self.open.pop()
        spent = self.now[label]
        spent[0] += clock - inside[0]
        spent[1] += processor - inside[1]
        spent[2] += 1
        if self.open:
            above = self.open[-1][1]
            above[0] += clock
            above[1] += processor
        elif label == TIMED[-1][2]:
            self.steps.append({name: list(found) for name, found in self.now.items()})
        if not self.open:
            self.now.clear()


def watched(folder: Path) -> None:
    """Time the functions of this process, and write down what each step took when it ends."""
    watch = Watch()
    for owner, name, label in TIMED:
        watch.over(owner, name, label)
    close = Ranks.close

    def closing(ranks: Ranks) -> None:
        close(ranks)
        (folder / f"where-{ranks.rank}.json").write_text(json.dumps(watch.steps), encoding="utf-8")

    Ranks.close = closing  # type: ignore[assignment, method-assign]


def show(case: Case, folder: Path) -> None:
    """Print the median of each region, process beside process, and its share of the step."""
    found = [json.loads((folder / f"where-{rank}.json").read_text())[WARM_UP:] for rank in range(case.processes)]
    labels = sorted({label for steps in found for step in steps for label in step})
    print(f"\n{case.name}: milliseconds of a step by the clock (of the processor), each process")
    medians = [{label: _median(steps, label) for label in labels} for steps in found]
    for label in sorted(labels, key=lambda name: -medians[0][name][0]):
        _print(label, f"{medians[0][label][2]:4.0f} x", [found[label] for found in medians])
    totals = [[sum(m[label][clock] for label in labels) for clock in (0, 1)] for m in medians]
    _print("together", "", totals)


def _print(label: str, often: str, spent: Iterable[Sequence[float]]) -> None:
    print(f"{label:>32} {often:>6} " + " ".join(f"{clock:8.1f} ({processor:6.1f})" for clock, processor, *_ in spent))


def _median(steps: list[Spent], label: str) -> list[float]:
    spent = [step.get(label, [0.0, 0.0, 0]) for step in steps]
    clock, processor, often = (statistics.median(values) for values in zip(*spent, strict=True))
    return [clock * 1e3, processor * 1e3, often]


def main() -> None:
    """Profile each case that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--sharding", nargs="*", default=["none", "full"], choices=["none", "full"])
    parser.add_argument("--micro-rows", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = prepare(folder, asked.micro_rows)
        watched(folder)
        for case in (Case(count, sharding) for count in asked.processes for sharding in asked.sharding):
            if case.processes > 1 or case.sharding == "none":
                speed, _ = run(case, recipe)
                show(case, folder)
                print(f"{speed:,.0f} tokens a second")


if __name__ == "__main__":
    main()
