"""The course of a run: steps, evaluations, checkpoints, and the ways it can end."""

import math
import time
from pathlib import Path
from typing import NoReturn

import torch

from lorafit.data.prepare import PreparedData
from lorafit.errors import Stopped
from lorafit.report.progress import Reporter
from lorafit.rundir.step import StepRecord
from lorafit.rundir.store import verify_folder
from lorafit.train.checkpoint import (
    UNKNOWN,
    Position,
    Saved,
    read_checkpoint,
    restore,
    restore_weights,
    write_checkpoint,
)
from lorafit.train.evaluation import validation_loss
from lorafit.train.finite import TRAINED, UNTRAINED, check_finite
from lorafit.train.loop import Loop
from lorafit.train.record import Record
from lorafit.train.rehearsal import rehearse
from lorafit.train.signals import Requests
from lorafit.train.taken import Taken


class Course:
    """Takes a loop from where it stands to its end."""

    def __init__(self, loop: Loop, data: PreparedData, record: Record, requests: Requests) -> None:
        self.loop = loop
        self.data = data
        self.record = record
        self.requests = requests
        self.training = loop.recipe.training
        self.position = Position()
        self.under_way: Taken | None = None  # queued, and not read yet
        self.last: StepRecord | None = None
        self.read_at = 0.0  # seconds, by time.perf_counter
        self.saved_step: int | None = None
        self.started = time.monotonic()

    def resume(self) -> int:
        """Go back to the newest valid checkpoint, if there is one; give its step."""
        step = self._checkpoint_step()
        if step:
            self.position = restore(self._saved(step), self.loop.trained, self.loop.optimizer)
            self.record.say(f"resuming after step {step}")
            self.saved_step = step
            if self.training.micro_batch_size == "auto":  # what fits may differ today, what was trained may not
                self.loop.micro_batch_size = self.position.micro_batch_size
            if self.training.gradient_checkpointing == "auto" and self.position.recomputed_layers != UNKNOWN:
                self.loop.recompute(self.position.recomputed_layers)
            self.record.event("resume", {"step": step, "recomputed_layers": self.loop.plan.recomputed_layers})
        self.record.begin(step)
        return step

    def _checkpoint_step(self) -> int:
        """Let the first process look, and tell the others."""
        found = torch.tensor(self.record.resume_step(), device=self.loop.ranks.device)
        return int(self.loop.ranks.sum(found))

    def _saved(self, step: int) -> Saved:
        """Read a checkpoint where the run folder is, and give it to all. Raises, in all, when it is damaged."""
        folder = self.record.folder.checkpoint(step)

        def read() -> Saved:
            verify_folder(folder)
            return read_checkpoint(folder)

        return self.loop.ranks.from_first(read)

    def run(self, reporter: Reporter) -> None:
        """Take every step that is left. Raises Stopped, NumericalError, OutOfMemory."""
        if self.loop.ranks.any_of([self.requests.stop]) == [True]:
            self._stop()
        if self.position.step < self.loop.plan.total_steps:
            rehearse(self.loop, self.data, self.record, self.position.step)
        if self.position.step == 0:
            self._evaluate(reporter)
        while self.position.step < self.loop.plan.total_steps and not self._is_stale():
            self._step(reporter)
        self._settle(reporter)
        if self.position.step % (self.training.eval_every or math.inf) != 0:
            self._evaluate(reporter)
        self._save()
        self._go_back_to_best(reporter)

    def _step(self, reporter: Reporter) -> None:
        """Queue a step; what the one before did is read while the device works on this one."""
        taken = self.loop.step(self.position.step)
        self._settle(reporter)
        self.under_way = taken
        self.position.step = taken.step
        self.position.tokens += taken.tokens
        self.position.micro_batch_size = self.loop.micro_batch_size
        self.position.recomputed_layers = self.loop.plan.recomputed_layers
        if taken.late.are_here:
            self._settle(reporter)
        if _is_due(taken.step, self.training.eval_every):
            self._settle(reporter)
            self._evaluate(reporter)
        save, stop = self.loop.ranks.any_of([self.requests.save, self.requests.stop])
        if save or _is_due(taken.step, self.training.save_every):
            self._settle(reporter)
            self._save()
            self.requests.save = False
        if stop and taken.step < self.loop.plan.total_steps:
            self._settle(reporter)
            self._stop()

    def _settle(self, reporter: Reporter) -> None:
        """Note what the step under way did, once it has. NumericalError, before it is noted, when it was not finite."""
        if self.under_way is None:
            return
        done, self.under_way = self.under_way.record(self.read_at), None
        self.last, self.read_at = done, time.perf_counter()
        self.record.metrics(done.as_json())
        self.loop.ranks.track({"loss": done.loss, "lr": done.lr, "grad_norm": done.grad_norm}, done.step)
        reporter.step(done)

    def _stop(self) -> NoReturn:
        """Save and raise Stopped."""
        self._save()
        raise Stopped(
            f"stopped on request after step {self.position.step}"
            + (", checkpoint saved" if self.position.step else ", before anything was trained"),
            fix="go on with the same command and --resume",
            code="E75-STOPPED",
        )

    def _evaluate(self, reporter: Reporter) -> None:
        """Measure the validation loss and remember the best."""
        if self.data.validation is None or self.data.validation_packs is None:
            return
        loss = validation_loss(self.loop, self.data.validation, self.data.validation_packs)
        step = self.position.step
        self.position.validation_loss = loss
        self.record.event("evaluation", {"step": step, "loss": loss if math.isfinite(loss) else str(loss)})
        self.loop.ranks.track({"validation_loss": loss}, step)
        reporter.note(f"step {step}: validation loss {loss:.4f}")
        check_finite(f"after step {step}", {"the validation loss": loss}, TRAINED if step else UNTRAINED)
        if step:  # an untrained adapter is no candidate
            self._compare_with_best(loss, step)

    def _compare_with_best(self, loss: float, step: int) -> None:
        """Remember the best, to keep it; count evaluations that do not improve by the margin, to stop."""
        here, stopping = self.position, self.training.early_stopping
        margin = stopping.min_delta if stopping else 0.0
        if here.reference_loss is None or loss < here.reference_loss - margin:
            here.reference_loss, here.stale_evaluations = loss, 0
        else:
            here.stale_evaluations += 1
        if here.best_loss is None or loss < here.best_loss:
            here.best_loss, here.best_step = loss, step
            if stopping:
                self._save()  # the best must be there to go back to

    def _is_stale(self) -> bool:
        stopping = self.training.early_stopping
        return stopping is not None and self.position.stale_evaluations >= stopping.patience

    def _go_back_to_best(self, reporter: Reporter) -> None:
        """With early stopping, the result is the best evaluated step and not the last."""
        best = self.position.best_step
        if self.training.early_stopping and best and best != self.position.step:
            restore_weights(self._saved(best).weights, self.loop.parameters)
            self.position.validation_loss = self.position.best_loss
            reporter.note(f"keeping step {best}, the best (validation loss {self.position.best_loss:.4f})")

    def _save(self) -> None:
        if self.position.step in (0, self.saved_step):
            return
        self.position.seconds += self._take_seconds()
        self.record.checkpoint(self.position.step, self._fill, self.training.keep_checkpoints, self._protected_step())
        self.saved_step = self.position.step
        self.loop.ranks.wait()

    def _take_seconds(self) -> float:
        now = time.monotonic()
        seconds, self.started = now - self.started, now
        return seconds

    def _protected_step(self) -> int | None:
        return self.position.best_step if self.training.early_stopping else None

    def _fill(self, folder: Path) -> None:
        write_checkpoint(folder, self.position, self.loop.trained, self.loop.optimizer)


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
