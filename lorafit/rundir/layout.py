"""Where everything of a run is."""

import re
from pathlib import Path
from typing import NamedTuple

_STEP = re.compile(r"step-(\d{8,})")


class RunFolder(NamedTuple):
    """The paths of one run; nothing is read or made by asking for one."""

    root: Path

    @property
    def state(self) -> Path:
        """Id, status and step of the run; a folder is a run if it holds this file."""
        return self.root / "run.json"

    @property
    def recipe(self) -> Path:
        """The bytes that the user wrote."""
        return self.root / "recipe.yaml"

    @property
    def resolved_recipe(self) -> Path:
        """The recipe with every default filled in, as canonical JSON."""
        return self.root / "recipe.resolved.json"

    @property
    def manifest(self) -> Path:
        """What the run was made of."""
        return self.root / "manifest.json"

    @property
    def events(self) -> Path:
        """One line for each thing that happened; only ever added to."""
        return self.root / "events.jsonl"

    @property
    def metrics(self) -> Path:
        """One line for each optimizer step."""
        return self.root / "metrics.jsonl"

    @property
    def lock(self) -> Path:
        """Locked by the process that uses the run."""
        return self.root / "run.lock"

    @property
    def checkpoints(self) -> Path:
        """One folder for each checkpoint."""
        return self.root / "checkpoints"

    @property
    def rehearsal(self) -> Path:
        """What is saved, read back and removed before the first step."""
        return self.root / "rehearsal"

    @property
    def adapter(self) -> Path:
        """The result, as PEFT loads it."""
        return self.root / "adapter"

    @property
    def model(self) -> Path:
        """The result of full fine-tuning, as transformers loads it."""
        return self.root / "model"

    @property
    def result(self) -> Path:
        """The final state of the run, as `train --json` prints it."""
        return self.root / "result.json"

    @property
    def reports(self) -> Path:
        """What a person reads: evaluations, the page with the curves."""
        return self.root / "reports"

    @property
    def data_report(self) -> Path:
        """Every row accounted for: read, kept, dropped, cut, bad."""
        return self.reports / "data.json"

    @property
    def memory_report(self) -> Path:
        """The peak of memory that was estimated, and the one that was measured."""
        return self.reports / "memory.json"

    def is_run(self) -> bool:
        """Tell whether a run was begun here."""
        return self.state.is_file()

    def checkpoint(self, step: int) -> Path:
        """Name the folder of the checkpoint after so many optimizer steps."""
        return self.checkpoints / f"step-{step:08d}"

    def checkpoint_steps(self) -> list[int]:
        """List the steps that have a checkpoint folder, valid or not, newest first."""
        if not self.checkpoints.is_dir():
            return []
        found = [(_STEP.fullmatch(entry.name), entry) for entry in self.checkpoints.iterdir()]
        return sorted((int(m[1]) for m, e in found if m and e.is_dir() and not e.is_symlink()), reverse=True)
