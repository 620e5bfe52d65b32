"""One contender in a process of its own, which works a window at a time, when it is told to."""

import json
import os
import resource
import sys
import time
import warnings
from importlib import import_module

import peft  # noqa: F401  # so that memory is counted from after the imports, for everybody
import torch

import lorafit.train.loop  # noqa: F401
from scripts.bench.contenders import CONTENDERS, Step
from scripts.bench.work import WORKS

WINDOWS = 6  # the first is warm-up


def resident_bytes() -> int:
    """Give the most this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Pace:
    """Waits for a line before each window and answers with what the window took."""

    def __init__(self, steps: int) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print is no answer
        self.steps = steps
        self.done: list[Step] = []
        self.imports_bytes = resident_bytes()

    def __call__(self, step: Step) -> None:
        """Take note of a step; at the end of a window answer, and wait for the next."""
        self.done.append(step)
        if len(self.done) == self.steps:
            self.answer()
            self.wait()

    def wait(self) -> None:
        """Wait for the next window; end when there is none."""
        if not sys.stdin.readline():
            sys.exit(0)
        self.done, self.started, self.worked = [], time.perf_counter(), time.process_time()

    def answer(self) -> None:
        """Write one line of JSON."""
        seconds = time.perf_counter() - self.started
        said = {
            "tokens": sum(step.tokens for step in self.done),
            "losses": [step.loss for step in self.done],
            "seconds": seconds,
            "cpu_seconds": time.process_time() - self.worked,
            "memory_bytes": resident_bytes() - self.imports_bytes,
        }
        self.answers.write(json.dumps(said) + "\n")
        self.answers.flush()


def main(case: str, name: str, threads: str = "2") -> None:
    """Do the work of a case."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    work = WORKS[case]
    if name.startswith("trl"):
        import_module("trl.trainer.sft_trainer")
    pace = Pace(work.steps_per_window)
    pace.wait()
    CONTENDERS[name](work, work.steps_per_window * (WINDOWS + 1), pace)


if __name__ == "__main__":
    main(*sys.argv[1:])
