"""What a person sees while a run is under way: one live line in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from lorafit.report.units import duration, gibibytes

if TYPE_CHECKING:
    from rich.progress import Progress

    from lorafit.rundir.step import StepRecord

PLAIN_LINES = 20  # about so many step lines in a log, whatever the length of the run


def say(text: str) -> None:
    """Print a line for a person, on standard error; a reader that has gone must not cost a run."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class StepLine:
    """Step, loss, rate, speed, memory and time left, after each step."""

    def __init__(self, total_steps: int, first_step: int) -> None:
        self.total_steps = total_steps
        self.first_step = first_step
        self.timed_from: tuple[int, float] | None = None  # the first step is no measure: it warms up

    def text(self, done: "StepRecord") -> str:
        """Put a step in words."""
        return (
            f"step {done.step:>{len(str(self.total_steps))}}/{self.total_steps}  loss {done.loss:.4f}  "
            f"lr {done.lr:.2e}  {done.tokens_per_second:,.0f} tokens/s  "
            f"{gibibytes(done.peak_bytes)}  {self._left(done.step)} left"
        )

    def _left(self, step: int) -> str:
        if self.timed_from is None:
            self.timed_from = step, time.monotonic()
            return "?"
        begun, since = self.timed_from
        per_step = (time.monotonic() - since) / max(step - begun, 1)
        return duration(per_step * (self.total_steps - step))


class Reporter:
    """Shows steps; silent when it is not this process's to speak."""

    def __init__(self, line: StepLine, speaks: bool, live: "Progress | None") -> None:
        self.line = line
        self.speaks = speaks
        self.live = live
        self.task = live.add_task("", total=line.total_steps, completed=line.first_step) if live else None
        self.every = max(1, line.total_steps // PLAIN_LINES)

    def step(self, done: "StepRecord") -> None:
        """Show a finished step."""
        if self.live is not None and self.task is not None:
            self.live.update(self.task, completed=done.step, description=self.line.text(done))
        elif self.speaks and self._is_worth_a_line(done.step):
            say(self.line.text(done))

    def _is_worth_a_line(self, step: int) -> bool:
        return step % self.every == 0 or step in (self.line.first_step + 1, self.line.total_steps)

    def note(self, text: str) -> None:
        """Show something that stays: an evaluation, a checkpoint, a notice."""
        if self.live is not None:
            self.live.console.print(text, highlight=False, markup=False)
        elif self.speaks:
            say(text)


@contextmanager
def reporting(total_steps: int, first_step: int, speaks: bool) -> Iterator[Reporter]:
    """Show the steps of a run, in the way the terminal allows."""
    line = StepLine(total_steps, first_step)
    if not (speaks and sys.stderr.isatty()):
        yield Reporter(line, speaks, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(BarColumn(24), TextColumn("{task.description}"), console=Console(stderr=True)) as live:
        yield Reporter(line, speaks, live)
