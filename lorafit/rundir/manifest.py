"""manifest.json: what the run was made of, so that nothing else is needed to make it again."""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lorafit
from lorafit.rundir import journal, resume
from lorafit.rundir.commit import hash_file
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.result import read_object

if TYPE_CHECKING:
    from lorafit.rundir.state import Run

# those whose version can change a number
PACKAGES = (
    "lorafit",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "jinja2",
    "flash-attn",
    "liger-kernel",
    "triton",
)

# the only environment variables that are ever written down: they change how a run goes, and none is a secret
VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "WORLD_SIZE",
)

Section = Mapping[str, object]
ACCOUNT = "account"  # a key of the data section that tells of the rows, and decides nothing: the fingerprint does
DAY = "day"  # a key of the account: the day the run began, which a template may write


@dataclass
class Manifest:
    """Gathers the facts of a run, then writes them; written again, it tells what happened since.

    `model` and `data` hold only what must be the same when the run goes on: hashes, counts, revisions; but for
    the account of the rows, which an older lorafit did not write and a newer one may write otherwise. What
    may differ on another machine (cards, drivers, determinism switches) goes into `device`.
    """

    recipe_hash: str
    seed: int
    model: Section = field(default_factory=dict)
    data: Section = field(default_factory=dict)
    device: Section = field(default_factory=dict)

    def write(self, run: "Run") -> None:
        """Write manifest.json, with the history of the run as far as it goes."""
        history = [event for event in journal.read_events(run.folder) if event.get("event") != "saved"]
        document = {"format": 1, "run_id": run.state.run_id, **self._facts(), "history": history}
        run.store.write_json(run.folder.manifest, document)

    def check_resume(self, run: "Run") -> list[str]:
        """Compare with the manifest on disk, if the run has one: a line, and an event, for what else changed.

        Raises ResumeRefused if the model or the data are not those that the run began with.
        """
        old = read_manifest(run.folder) if run.folder.manifest.exists() else {}
        if old.get("run_id") != run.state.run_id:
            return []
        changes = self._changes(old, ("model", "data"))
        told = f"data.{ACCOUNT}"
        inputs = {key: change for key, change in changes.items() if key != told and not key.startswith(f"{told}.")}
        resume.refuse(inputs, str(run.folder.root), "E10-INPUT")
        noted = resume.describe(self._changes(old, ("lorafit", "environment", "device")))
        if noted:
            journal.record_event(run, "surroundings", {"changes": noted})
        return noted

    def _changes(self, old: Mapping[str, object], sections: tuple[str, ...]) -> resume.Changes:
        new = json.loads(json.dumps(self._facts()))
        return resume.changed_keys({key: old.get(key) for key in sections}, {key: new[key] for key in sections})

    def _facts(self) -> dict[str, object]:
        return {
            "recipe_hash": self.recipe_hash,
            "seed": self.seed,
            "lorafit": {"version": lorafit.__version__, "source_sha256": source_hash()},
            "environment": environment(),
            "device": self.device,
            "model": self.model,
            "data": self.data,
        }


def read_manifest(folder: RunFolder) -> dict[str, Any]:
    """Read manifest.json; raises StorageError if it is not what lorafit wrote."""
    return read_object(folder.manifest)


def day_begun(document: Mapping[str, Any]) -> date | None:
    """Give the day that a run began by its manifest; None where an older lorafit did not note it."""
    noted = document.get("data", {}).get(ACCOUNT, {}).get(DAY)
    return date.fromisoformat(noted) if noted else None


def environment() -> dict[str, object]:
    """Tell on what this process runs: Python, machine, packages, and the variables of the list above."""
    installed = {dist.name.lower(): dist.version for dist in metadata.distributions()}
    frozen = "\n".join(f"{name}=={version}" for name, version in sorted(installed.items()))
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "packages": {name: installed[name] for name in PACKAGES if name in installed},
        "packages_sha256": hashlib.sha256(frozen.encode()).hexdigest(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def source_hash() -> str:
    """Hash the Python files of lorafit itself: a commit id that is right in a changed checkout too."""
    files = hash_files(Path(lorafit.__file__).parent, ["**/*.py"])
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def hash_files(folder: Path, patterns: Iterable[str]) -> dict[str, dict[str, int | str]]:
    """Hash the files that match any glob pattern, links followed: relative name -> bytes and sha256."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    facts = {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}
    return {name: {"bytes": fact.bytes, "sha256": fact.sha256} for name, fact in facts.items()}
