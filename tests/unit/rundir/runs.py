"""Runs to try things on."""

import json
from collections.abc import Callable
from pathlib import Path

from lorafit.rundir.state import Mode, Run, open_run
from lorafit.rundir.store import Store
from rundir.faulty_disk import QuickDisk

QUICK = Store(QuickDisk())
RECIPE = {"seed": 1, "output": {"dir": "runs/a"}, "training": {"learning_rate": 0.0002, "save_every": 10}}


def begin(root: Path, mode: Mode = "new", recipe: object = RECIPE, store: Store = QUICK) -> Run:
    """Open a run of this recipe."""
    text = json.dumps(recipe)
    return open_run(root, b"# mine\n" + text.encode(), text, f"hash of {text}", mode, store)


def filling(marker: str) -> Callable[[Path], None]:
    """Write the files of a checkpoint, or of a result."""

    def fill(folder: Path) -> None:
        (folder / "adapter.safetensors").write_bytes(marker.encode() * 20)
        (folder / "state.json").write_text(json.dumps({"marker": marker}))

    return fill
