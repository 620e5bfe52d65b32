"""The run's memory, as the first process writes it; the other processes keep quiet."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from lorafit.report.progress import say
from lorafit.rundir import checkpoints, journal
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.manifest import Manifest, day_begun, read_manifest
from lorafit.rundir.state import Run
from lorafit.rundir.store import Commit, verify_folder


class Fill(Protocol):
    """Writes the files of a folder that is being committed."""

    def __call__(self, folder: Path, /) -> None:
        """Write into the empty folder."""


class Record:
    """Writes events, metrics, checkpoints and results; does nothing where there is no run to write."""

    def __init__(self, folder: RunFolder, run: Run | None) -> None:
        self.folder = folder
        self.run = run

    def say(self, text: str) -> None:
        """Tell the person at the terminal, once."""
        if self.run is not None:
            say(text)

    def event(self, kind: str, facts: Mapping[str, object]) -> None:
        """Note that something happened."""
        if self.run is not None:
            journal.record_event(self.run, kind, facts)

    def metrics(self, line: Mapping[str, object]) -> None:
        """Note the numbers of a step."""
        if self.run is not None:
            journal.record_metrics(self.run, line)

    def manifest(self, manifest: Manifest) -> None:
        """Write what the run is made of, and say what of it changed since it began. ResumeRefused if it may not."""
        if self.run is not None:
            for change in manifest.check_resume(self.run):
                self.say(f"changed since the run began: {change}")
            manifest.write(self.run)

    def write_json(self, path: Path, value: object) -> None:
        """Write a file of the run in one go."""
        if self.run is not None:
            self.run.store.write_json(path, value)

    def resume_step(self) -> int:
        """Find the newest valid checkpoint and drop the metrics after it; 0 where there is none, or no run."""
        if self.run is None:
            return 0
        found, warnings = checkpoints.resume_point(self.run)
        for warning in warnings:
            self.say(warning)
        return found.step if found else 0

    def day(self) -> date:
        """Give the day that the run began, which its rows may bear: today where it begins now."""
        known = read_manifest(self.folder) if self.run is not None and self.folder.manifest.exists() else {}
        same = self.run is not None and known.get("run_id") == self.run.state.run_id
        return (day_begun(known) if same else None) or date.today()

    def begin(self, step: int) -> None:
        """Note that training starts, or goes on, after `step` updates."""
        if self.run is not None:
            self.run.mark("running", step=step)

    def checkpoint(self, step: int, fill: Fill, keep: int, best_step: int | None) -> None:
        """Commit a checkpoint, then let go of older ones."""
        if self.run is not None:
            checkpoints.save(self.run, step, fill, {"best_step": best_step})
            checkpoints.retain(self.run, keep, {best_step} if best_step else set())

    def try_saving(self, fill: Fill, room_bytes: int) -> None:
        """Commit a folder, read it back and remove it. StorageError, also where there is no room for so many bytes."""
        if self.run is not None:
            target = self.folder.rehearsal
            self.run.store.commit_folder(target, fill, {}, replace=True, expected_bytes=room_bytes)
            verify_folder(target)
            self.run.store.remove(target)

    def events(self) -> list[dict[str, Any]]:
        """Give what has happened to the run so far."""
        return [] if self.run is None else journal.read_events(self.folder)

    def unpacked_layers(self) -> int | None:
        """Give how many layers of a 4-bit base were unpacked when this run was last under way; None where it begins."""
        found: int | None = None
        for event in self.events():
            if event.get("event") == "created":  # what stands before it began otherwise
                found = None
            elif event.get("event") == "plan" and event.get("unpacked_layers") is not None:
                found = int(event["unpacked_layers"])
        return found

    def publish(self, target: Path, fill: Fill, facts: Mapping[str, object]) -> Commit | None:
        """Commit the result under its final name, in place of an earlier one."""
        if self.run is None:
            return None
        return self.run.store.commit_folder(target, fill, facts, replace=True)

    def finish(self, step: int) -> None:
        """Note that the run ended well."""
        if self.run is not None:
            self.run.mark("finished", step=step, exit_code=0)
