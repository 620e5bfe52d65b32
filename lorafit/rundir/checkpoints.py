"""Checkpoints: saved as whole folders, found by looking, deleted only behind a newer one that was read."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorafit.errors import Fault, ResumeRefused, StorageError
from lorafit.rundir import journal
from lorafit.rundir.commit import Commit, check_sizes, verify_folder

if TYPE_CHECKING:
    from lorafit.rundir.state import Run


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was hashed and found whole."""

    step: int
    path: Path
    commit: Commit


def save(
    run: "Run",
    step: int,
    fill: Callable[[Path], None],
    facts: Mapping[str, object],
    *,
    expected_bytes: int = 0,
) -> Commit:
    """Commit the files that `fill` writes as the checkpoint after `step`, and note the step in run.json.

    `facts` are what the caller wants to find in COMMIT.json, beside the run's id, the step and the hash of
    the checkpoint before. The metrics up to the step are made durable first. A damaged checkpoint of that
    step is replaced; StorageError if there is a valid one.
    """
    if run.last_commit is None and (before := newest_valid(run)[0]):
        run.last_commit = before.commit
    previous = run.last_commit.sha256 if run.last_commit else None
    own = {"run_id": run.state.run_id, "step": step, "previous": previous}
    assert not own.keys() & facts.keys(), "a fact of the caller has a name that is taken"
    target = run.folder.checkpoint(step)
    run.store.sync(run.folder.metrics)
    run.last_commit = run.store.commit_folder(
        target, fill, own | dict(facts), replace=not _is_whole(target), expected_bytes=expected_bytes
    )
    run.mark("running", step=step)
    journal.record_event(run, "saved", {"step": step, "bytes": run.last_commit.size_bytes})
    return run.last_commit


def newest_valid(run: "Run") -> tuple[Checkpoint | None, list[str]]:
    """Find the newest checkpoint of this run that is whole; give a warning for each newer one that is not."""
    warnings: list[str] = []
    for step in run.folder.checkpoint_steps():
        try:
            return _checked(run, step, verify_folder), warnings
        except StorageError as error:
            why = "; ".join(fault.what for fault in error.faults)
            warnings.append(f"{run.folder.checkpoint(step)} is skipped: {why}")
    return None, warnings


def resume_point(run: "Run") -> tuple[Checkpoint | None, list[str]]:
    """Find where to go on, with warnings, and drop the metrics after it; None: at step 0, nothing was saved.

    Raises ResumeRefused if there are checkpoints and none is valid.
    """
    found, warnings = newest_valid(run)
    if found is None and warnings:
        fix = "restore one from a copy, or start anew with --fresh"
        raise ResumeRefused([Fault(warning, fix=fix, code="E10-CHECKPOINT") for warning in warnings])
    journal.truncate_metrics(run, found.step if found else 0)
    run.last_commit = found.commit if found else None
    return found, warnings


def retain(run: "Run", keep: int, protect: Collection[int] = ()) -> list[int]:
    """Delete all but the newest `keep` whole checkpoints and those of `protect`; give the deleted steps.

    Call it after a save. Nothing goes before `keep` newer ones (at least one) have been read back whole, and nothing
    that is not plainly a checkpoint of this run.
    """
    kept, doomed = 0, []
    for step in run.folder.checkpoint_steps():
        if kept < max(keep, 1):
            kept += _is_own(run, step, verify_folder)
        elif step not in protect and _is_own(run, step, check_sizes):
            doomed.append(step)
    for step in doomed:
        run.store.remove(run.folder.checkpoint(step))
    return doomed


def sweep(run: "Run") -> list[str]:
    """Clear what a killed process left half done; under the run's lock nobody else is at it."""
    places = (run.folder.root, run.folder.checkpoints, run.folder.reports)
    return [line for place in places for line in run.store.sweep(place)]


def _checked(run: "Run", step: int, check: Callable[[Path], Commit]) -> Checkpoint:
    path = run.folder.checkpoint(step)
    commit = check(path)
    for key, value in {"run_id": run.state.run_id, "step": step}.items():
        if commit.facts.get(key) != value:
            what = f"its {key} is {commit.facts.get(key)}, not {value}"
            raise StorageError(
                what,
                where=str(path),
                fix="delete that folder: it was copied there from another run",
                code="E7-OTHER-RUN",
            )
    return Checkpoint(step, path, commit)


def _is_own(run: "Run", step: int, check: Callable[[Path], Commit]) -> bool:
    try:
        _checked(run, step, check)
    except StorageError:
        return False
    return True


def _is_whole(path: Path) -> bool:
    try:
        verify_folder(path)
    except StorageError:
        return False
    return True
