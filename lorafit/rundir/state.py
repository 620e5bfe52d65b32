"""What a run is doing, in run.json, and the one door through which a run is opened for writing."""

import json
import os
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args
from uuid import uuid4

from lorafit.errors import LorafitError, ResumeRefused, RunInUse, Stopped, StorageError
from lorafit.rundir import checkpoints, journal, resume
from lorafit.rundir.holder import read_holder
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.lock import RunLock, is_written
from lorafit.rundir.standing import Standing, stands
from lorafit.rundir.store import Commit, Store, is_leftover

Status = Literal["created", "running", "stopped", "failed", "finished"]
Mode = Literal["new", "resume", "fresh"]

# A run that was killed still says "running", and may fail again before it trains again.
_NEXT: dict[Status, tuple[Status, ...]] = {
    "created": ("running", "stopped", "failed"),
    "running": ("running", "stopped", "failed", "finished"),
    "stopped": ("running", "stopped", "failed"),
    "failed": ("running", "stopped", "failed"),
    "finished": (),
}
_LONGEST_FAULT = 4000  # characters


@dataclass(frozen=True)
class RunState:
    """The content of run.json; times are ISO 8601, UTC."""

    run_id: str
    recipe_hash: str
    started: str
    updated: str
    status: Status = "created"
    step: int = 0
    exit_code: int | None = None
    fault: str | None = None
    format: int = 1


def read_state(folder: RunFolder) -> RunState:
    """Read run.json; raises StorageError if it is not what lorafit wrote."""
    try:
        state = RunState(**json.loads(folder.state.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        fix = "restore it from a copy, or start anew with --fresh"
        raise StorageError(f"is damaged: {error}", where=str(folder.state), fix=fix, code="E7-DAMAGED") from error
    if state.status not in get_args(Status):
        raise StorageError(
            f"unknown status {state.status!r}",
            where=str(folder.state),
            fix="bring run.json back from a copy, or begin anew with --fresh",
            code="E7-DAMAGED",
        )
    return state


def read_standing(folder: RunFolder) -> Standing:
    """Tell how a run stands that another process may be at. StorageError if run.json is not what lorafit wrote."""
    state = read_state(folder)
    return stands(folder, state.status, state.step, read_holder(folder.lock), locked=is_written(folder))


@dataclass
class Run:
    """A run that this process holds the lock of; leaving the `with` block notes how it ended and lets go."""

    folder: RunFolder
    store: Store
    lock: RunLock
    state: RunState
    notes: list[str] = field(default_factory=list)  # what the user should be told of how the run was opened
    last_commit: Commit | None = None  # of the newest checkpoint, once one was made or looked for

    @property
    def status(self) -> Status:
        """What the run is doing."""
        return self.state.status

    def mark(
        self,
        status: Status,
        *,
        step: int | None = None,
        exit_code: int | None = None,
        fault: str | None = None,
    ) -> None:
        """Write the new status, and an event if it is another one; without `step` that stays as it was."""
        assert status in _NEXT[self.status], f"a run that is {self.status} cannot become {status}"
        done = self.state.step if step is None else step
        state = replace(self.state, status=status, step=done, exit_code=exit_code, fault=fault, updated=journal.now())
        self.store.write_json(self.folder.state, asdict(state))
        before, self.state = self.status, state
        if status != before:
            journal.record_event(self, status, {"step": done, "exit_code": exit_code, "fault": fault})

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and self.status != "finished":
                self._note_end(error)
        finally:
            self.lock.release()

    def _note_end(self, error: BaseException) -> None:
        status: Status = "stopped" if isinstance(error, Stopped) else "failed"
        fault = (str(error) or type(error).__name__)[:_LONGEST_FAULT]
        with suppress(StorageError):  # a full disk cannot note that it is full
            self.mark(status, exit_code=_exit_code(error), fault=fault)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, LorafitError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def open_run(
    root: Path,
    recipe_text: bytes,
    resolved_json: str,
    recipe_hash: str,
    mode: Mode,
    store: Store | None = None,
) -> Run:
    """Lock the folder and begin a run in it, or go on with the one that it holds.

    `new` begins in an empty folder, or in one whose run never trained a step (its model was not found, say).
    `resume` goes on: from step 0 where nothing was trained or saved; nothing is done to a finished run.
    `fresh` moves a run that trained aside as a whole, to `<name>.old-N`, and begins anew.
    Raises RunInUse (in use, or used already, or no run of ours), ResumeRefused (no run, or another recipe),
    StorageError. A folder that holds anything but a run is never touched.
    """
    folder = RunFolder(root.resolve())
    _refuse_other_files(folder)
    if mode == "resume" and not (folder.is_run() or folder.lock.exists()):
        raise ResumeRefused("holds no run", where=str(folder.root), fix="leave out --resume", code="E10-NO-RUN")
    with ExitStack() as undo:
        run = Run(folder, store or Store(), RunLock(folder).acquire(), _new_state(recipe_hash))
        undo.callback(_let_go, run)
        if folder.is_run() and _has_trained(folder):
            _open_used(run, recipe_text, resolved_json, mode)
        else:
            _begin(run, recipe_text, resolved_json, again=mode == "resume")
        undo.pop_all()
    return run


def _let_go(run: Run) -> None:
    """Release the lock that the run holds by now: `fresh` takes a second one."""
    run.lock.release()


def _open_used(run: Run, recipe_text: bytes, resolved_json: str, mode: Mode) -> None:
    if mode == "new":
        held = read_state(run.folder)
        standing = stands(run.folder, held.status, held.step, run.lock.left_by, locked=False)
        what = f"holds a run that {standing.what}"
        use = "use it as it is, or add" if held.status == "finished" else "add --resume to continue it, or"
        fix = f"{use} --fresh to start anew"
        raise RunInUse(what, where=str(run.folder.root), fix=fix, code="E9-USED")
    if mode == "fresh":
        _move_aside(run)
        _begin(run, recipe_text, resolved_json)
    else:
        _go_on(run, recipe_text, resolved_json)


def _begin(run: Run, recipe_text: bytes, resolved_json: str, *, again: bool = False) -> None:
    """Write run.json first: a folder with files but without it would be taken for somebody else's."""
    run.notes += checkpoints.sweep(run)
    if again:
        run.notes.append("nothing was trained here before: starting at step 0")
    run.store.write_json(run.folder.state, asdict(run.state))
    _write_recipe(run, recipe_text, resolved_json)
    journal.mend_events(run)
    journal.record_event(run, "created", {"run_id": run.state.run_id, "notes": run.notes})


def _go_on(run: Run, recipe_text: bytes, resolved_json: str) -> None:
    recipe_hash, run.state = run.state.recipe_hash, read_state(run.folder)
    changes = resume.check_recipe(_old_recipe(run.folder), json.loads(resolved_json), str(run.folder.root))
    if run.status == "finished":
        run.notes.append("the run is finished: there is nothing to do")
        return
    run.notes += checkpoints.sweep(run) + resume.describe(changes)
    if not run.folder.checkpoint_steps():
        run.notes.append("no checkpoint was committed: starting at step 0")
    run.state = replace(run.state, recipe_hash=recipe_hash, updated=journal.now())
    run.store.write_json(run.folder.state, asdict(run.state))
    if changes:
        _write_recipe(run, recipe_text, resolved_json)
    journal.mend_events(run)
    journal.record_event(run, "resumed", {"status": run.status, "step": run.state.step, "notes": run.notes})


def _move_aside(run: Run) -> None:
    """Rename the whole folder, the lock in it: whoever opened that one sees that it is not the new one."""
    root = run.folder.root
    names = (root.with_name(f"{root.name}.old-{number}") for number in count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    run.store.rename(root, aside)
    held, run.lock = run.lock, RunLock(run.folder).acquire()
    held.release()
    run.notes.append(f"the run that was here is now {aside}")


def _write_recipe(run: Run, recipe_text: bytes, resolved_json: str) -> None:
    run.store.write_bytes(run.folder.recipe, recipe_text)
    run.store.write_bytes(run.folder.resolved_recipe, resolved_json.encode())


def _old_recipe(folder: RunFolder) -> object:
    try:
        return json.loads(folder.resolved_recipe.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        where, fix = str(folder.resolved_recipe), "restore it from a copy, or start anew with --fresh"
        raise ResumeRefused(f"is damaged: {error}", where=where, fix=fix, code="E10-DAMAGED") from error


def _has_trained(folder: RunFolder) -> bool:
    """Tell whether there is anything to lose: a step taken, a checkpoint, a result."""
    steps_taken = folder.metrics.exists() and folder.metrics.stat().st_size > 0
    return steps_taken or bool(folder.checkpoint_steps()) or folder.adapter.exists() or folder.model.exists()


def _refuse_other_files(folder: RunFolder) -> None:
    fix = "give an empty or a new folder with --out"
    if folder.root.exists() and not folder.root.is_dir():
        raise RunInUse("is a file", where=str(folder.root), fix=fix, code="E9-NOT-A-RUN")
    if folder.is_run() or not folder.root.exists():
        return
    others = sorted(path.name for path in folder.root.iterdir() if path != folder.lock and not is_leftover(path))
    if others:
        what = f"holds files that are no run of lorafit, {others[0]} for one"
        raise RunInUse(what, where=str(folder.root), fix=fix, code="E9-NOT-A-RUN")


def _new_state(recipe_hash: str) -> RunState:
    return RunState(run_id=str(uuid4()), recipe_hash=recipe_hash, started=journal.now(), updated=journal.now())
