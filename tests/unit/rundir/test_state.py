"""How a run is begun, gone on with, moved aside, refused; and how its end is noted."""

import errno
import itertools
import json
import os
from pathlib import Path
from typing import get_args

import pytest

from lorafit.errors import LorafitError, NumericalError, ResumeRefused, RunInUse, Stopped, StorageError
from lorafit.rundir import checkpoints, journal
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.lock import RunLock
from lorafit.rundir.state import Mode, Run, Status, read_state
from lorafit.rundir.store import Store, is_leftover, verify_folder
from rundir.faulty_disk import FailingDisk, crash_everywhere, fail_everywhere
from rundir.runs import QUICK, RECIPE, begin, filling

MODES: tuple[Mode, ...] = get_args(Mode)
CHANGED = {**RECIPE, "seed": 2, "training": {"learning_rate": 0.0003, "save_every": 10}}
RETIMED = {**RECIPE, "output": {"dir": "runs/b"}, "training": {"learning_rate": 0.0002, "save_every": 50}}


def train(run: Run, *steps: int) -> None:
    for step in steps:
        journal.record_metrics(run, {"step": step, "loss": 1.0})
        checkpoints.save(run, step, filling(str(step)), {})


def finish(run: Run) -> None:
    train(run, 10)
    run.store.commit_folder(run.folder.adapter, filling("done"), {})
    run.mark("finished", exit_code=0)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Give the content of every file but the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# ---------------------------------------------------------------- beginning


@pytest.mark.parametrize("mode", ["new", "fresh"])
@pytest.mark.parametrize("there", [False, True])
def test_a_run_begins_in_an_empty_folder(tmp_path: Path, mode: Mode, there: bool) -> None:
    root = tmp_path / "runs" / "a"
    if there:
        root.mkdir(parents=True)
    with begin(root, mode) as run:
        assert run.notes == []
        assert run.folder.is_run()
        state = read_state(run.folder)
        assert state == run.state
        assert (state.status, state.step, state.exit_code, state.fault) == ("created", 0, None, None)
        assert state.recipe_hash.startswith("hash of {")
        assert run.folder.recipe.read_bytes().startswith(b"# mine\n{")
        assert json.loads(run.folder.resolved_recipe.read_bytes()) == RECIPE
    assert [path.name for path in root.parent.iterdir()] == ["a"]


def test_every_run_has_its_own_id(tmp_path: Path) -> None:
    with begin(tmp_path / "a") as first, begin(tmp_path / "b") as second:
        assert first.state.run_id != second.state.run_id


def test_one_run_is_opened_once(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        for mode in MODES:
            with pytest.raises(RunInUse, match=f"in use by pid {os.getpid()}"):
                begin(tmp_path / "run", mode)
    with begin(tmp_path / "run") as run:
        assert run.status == "created"


@pytest.mark.parametrize("mode", MODES)
def test_a_folder_of_others_is_not_touched(tmp_path: Path, mode: Mode) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RunInUse, match=r"holds files that are no run of lorafit, checkpoints for one"):
        begin(tmp_path, mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "thesis.tex"]
    assert list(tmp_path.parent.glob(f"{tmp_path.name}.old-*")) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_file_is_not_touched(tmp_path: Path, mode: Mode) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunInUse, match="is a file"):
        begin(tmp_path / "run", mode)
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("end", ["created", "failed", "killed", "stopped"])
def test_a_run_that_never_trained_is_begun_anew(tmp_path: Path, end: str) -> None:
    with begin(tmp_path / "run", recipe=CHANGED) as first:
        if end in ("failed", "stopped"):
            first.mark(end, exit_code=4, fault="no such model")  # type: ignore[arg-type]
        elif end == "killed":
            first.mark("running")
    with begin(tmp_path / "run") as run:
        assert run.state.run_id != first.state.run_id
        assert (run.status, run.notes) == ("created", [])
        assert json.loads(run.folder.resolved_recipe.read_bytes()) == RECIPE
        assert [event["event"] for event in journal.read_events(run.folder)][-1] == "created"
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "big disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "big disk")
    with begin(tmp_path / "run") as run:
        train(run, 10)
    with begin(tmp_path / "run", "fresh") as run:
        assert run.folder.root == tmp_path / "big disk"
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "big disk.old-1" / "run.json").exists()


# ---------------------------------------------------------------- a folder that was used


@pytest.mark.parametrize("left", ["metrics", "checkpoint", "adapter", "model"])
def test_a_used_folder_is_refused(tmp_path: Path, left: str) -> None:
    with begin(tmp_path / "run") as run:
        run.mark("running", step=7)
        if left == "metrics":
            journal.record_metrics(run, {"step": 1})
        elif left == "checkpoint":
            run.folder.checkpoint(1).mkdir(parents=True)
        else:
            (run.folder.root / left).mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(RunInUse) as caught:
        begin(tmp_path / "run")
    assert str(caught.value).endswith(
        "run: holds a run that stopped without a word (killed?) at step 7; "
        "add --resume to continue it, or --fresh to start anew  [E9-USED]"
    )
    assert snapshot(tmp_path) == before
    RunLock(run.folder).acquire().release()


def test_a_fresh_run_moves_the_old_one_aside(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with begin(root) as first:
        train(first, 10)
    before = snapshot(root)
    with begin(root, "fresh", CHANGED) as second:
        assert second.notes == [f"the run that was here is now {root}.old-1"]
        assert snapshot(tmp_path / "run.old-1") == before
        assert second.folder.checkpoint_steps() == []
        assert second.state.run_id != first.state.run_id
        with pytest.raises(RunInUse):
            begin(root, "fresh")
        with begin(tmp_path / "run.old-1", "resume") as old:  # it is a run of its own now
            assert old.state.run_id == first.state.run_id
        train(second, 10)
    with begin(root, "fresh"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old-1", "run.old-2"]
    with begin(root, "fresh"):  # nothing to lose, nothing to keep
        pass
    assert len(list(tmp_path.iterdir())) == 3


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("there", [False, True])
def test_there_must_be_a_run_to_go_on_with(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "run").mkdir()
    with pytest.raises(ResumeRefused, match="holds no run; leave out --resume") as caught:
        begin(tmp_path / "run", "resume")
    assert caught.value.exit_code == 10
    assert snapshot(tmp_path) == {}
    assert (tmp_path / "run").exists() == there


def test_a_start_that_was_killed_at_once_is_begun_again(tmp_path: Path) -> None:
    root = tmp_path / "run"
    RunLock(RunFolder(root)).acquire().release()
    (root / f".tmp-{'0' * 32}").write_text("half of run.json")
    with begin(root, "resume") as run:
        assert run.status == "created"
        assert run.notes[-1] == "nothing was trained here before: starting at step 0"
        assert not any(map(is_leftover, root.iterdir()))


@pytest.mark.parametrize("end", ["running", "stopped", "failed"])
def test_a_run_goes_on(tmp_path: Path, end: Status) -> None:
    with begin(tmp_path / "run") as first:
        train(first, 10, 20)
        first.mark(end)
    before = snapshot(tmp_path / "run")
    with begin(tmp_path / "run", "resume") as run:
        assert run.state.run_id == first.state.run_id
        assert run.state.started == first.state.started
        assert (run.status, run.state.step, run.notes) == (end, 20, [])
        found, _ = checkpoints.resume_point(run)
        assert found is not None
        assert found.step == 20
        run.mark("running")
        train(run, 30)
        run.mark("finished")
    after = snapshot(tmp_path / "run")
    assert {name for name in before if before[name] != after[name]} == {
        "run.json",
        "events.jsonl",
        "metrics.jsonl",
    }


def test_without_a_checkpoint_it_goes_on_from_the_start(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        run.mark("running")
        journal.record_metrics(run, {"step": 1})
    with begin(tmp_path / "run", "resume") as run:
        assert run.notes == ["no checkpoint was committed: starting at step 0"]
        assert checkpoints.resume_point(run) == (None, [])
        assert journal.read_metrics(run.folder) == []


def test_a_run_without_its_lock_file_goes_on(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        train(run, 10)
    run.folder.lock.unlink()
    with begin(tmp_path / "run", "resume") as run:
        assert run.state.step == 10


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        finish(run)
    before = snapshot(tmp_path / "run")
    with begin(tmp_path / "run", "resume", RETIMED) as run:
        assert run.status == "finished"
        assert run.notes == ["the run is finished: there is nothing to do"]
    assert snapshot(tmp_path / "run") == before


@pytest.mark.parametrize("finished", [False, True])
def test_a_changed_recipe_is_refused(tmp_path: Path, finished: bool) -> None:
    with begin(tmp_path / "run") as run:
        finish(run) if finished else train(run, 10)
    before = snapshot(tmp_path / "run")
    with pytest.raises(ResumeRefused) as caught:
        begin(tmp_path / "run", "resume", CHANGED)
    assert [fault.what for fault in caught.value.faults] == [
        "seed changed: 1 -> 2",
        "training.learning_rate changed: 0.0002 -> 0.0003",
    ]
    assert snapshot(tmp_path / "run") == before
    RunLock(run.folder).acquire().release()


def test_a_change_that_leaves_the_result_is_noted(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        train(run, 10)
    with begin(tmp_path / "run", "resume", RETIMED) as run:
        said = ['output.dir changed: "runs/a" -> "runs/b"', "training.save_every changed: 10 -> 50"]
        assert run.notes == said
        assert journal.read_events(run.folder)[-1]["notes"] == said
        assert json.loads(run.folder.resolved_recipe.read_bytes()) == RETIMED
        assert read_state(run.folder).recipe_hash == f"hash of {json.dumps(RETIMED)}"
    with begin(tmp_path / "run", "resume", RETIMED) as run:
        assert run.notes == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run_id": 1}', "\xff", "[" * 100_000])
def test_a_damaged_state_is_an_error_of_storage(tmp_path: Path, text: str) -> None:
    with begin(tmp_path / "run") as run:
        train(run, 10)
    run.folder.state.write_text(text)
    for mode in ("new", "resume"):
        with pytest.raises(StorageError, match=r"run\.json: is damaged"):
            begin(tmp_path / "run", mode)
    with begin(tmp_path / "run", "fresh") as run:
        assert run.status == "created"


def test_a_status_of_the_future_is_an_error_of_storage(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        pass
    run.folder.state.write_text(run.folder.state.read_text().replace("created", "paused"))
    with pytest.raises(StorageError, match="unknown status 'paused'"):
        read_state(run.folder)


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_without_the_old_recipe_nothing_can_be_compared(tmp_path: Path, damage: str) -> None:
    with begin(tmp_path / "run") as run:
        train(run, 10)
    run.folder.resolved_recipe.write_text("{") if damage == "cut" else run.folder.resolved_recipe.unlink()
    with pytest.raises(ResumeRefused, match=r"recipe\.resolved\.json: is damaged"):
        begin(tmp_path / "run", "resume")


# ---------------------------------------------------------------- status

LEGAL = {
    *itertools.product(("created", "stopped", "failed"), ("running", "stopped", "failed")),
    *itertools.product(("running",), ("running", "stopped", "failed", "finished")),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(get_args(Status), repeat=2)))
def test_only_legal_changes_of_status(tmp_path: Path, before: Status, after: Status) -> None:
    with begin(tmp_path / "run") as run:
        run.state = run.state.__class__(**(vars(run.state) | {"status": before}))
        if (before, after) in LEGAL:
            run.mark(after, step=3, exit_code=7, fault="x")
            assert read_state(run.folder) == run.state
            assert (run.status, run.state.step, run.state.exit_code, run.state.fault) == (after, 3, 7, "x")
        else:
            with pytest.raises(AssertionError):
                run.mark(after)
            assert read_state(run.folder).status == "created"


def test_a_new_status_forgets_the_old_fault_and_keeps_the_step(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        run.mark("failed", step=5, exit_code=7, fault="disk full")
        run.mark("running")
        assert (run.state.step, run.state.exit_code, run.state.fault) == (5, None, None)
        assert [e["event"] for e in journal.read_events(run.folder)] == ["created", "failed", "running"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NumericalError("loss is NaN", code="E8-NAN"), "failed", 8),
        (Stopped("stopped at step 3"), "stopped", 75),
        (KeyboardInterrupt(), "failed", 130),
        (ZeroDivisionError("a bug"), "failed", 1),
    ],
)
def test_the_end_is_noted(tmp_path: Path, error: BaseException, status: str, code: int) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(type(error)) as caught:
        fall_over(folder, error)
    assert caught.value is error
    state = read_state(folder)
    assert (state.status, state.exit_code) == (status, code)
    assert state.fault == (str(error) or "KeyboardInterrupt")
    RunLock(folder).acquire().release()


def fall_over(folder: RunFolder, error: BaseException, store: Store = QUICK) -> None:
    with begin(folder.root) as run:
        run.store = store
        raise error


def test_an_error_after_the_end_does_not_undo_it(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        finish(run)
        run.__exit__(ValueError, ValueError("report"), None)
        assert read_state(run.folder).status == "finished"


def test_a_full_disk_does_not_hide_its_own_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(StorageError, match="first"):
        fall_over(folder, StorageError("first"), Store(FailingDisk(0, errno.ENOSPC, stays=True)))
    assert read_state(folder).status == "created"
    RunLock(folder).acquire().release()


# ---------------------------------------------------------------- power cuts and failing disks


def prepare_used(root: Path) -> None:
    with begin(root / "run") as run:
        train(run, 10)


def prepare_empty(root: Path) -> None:
    (root / "run").mkdir()
    (root / "run" / "run.lock").touch()


@pytest.mark.parametrize("then", ["new", "resume"])
def test_a_beginning_survives_a_power_cut_at_any_moment(tmp_path: Path, then: Mode) -> None:
    def act(root: Path, store: Store) -> None:
        begin(root / "run", store=store).lock.release()

    def check(root: Path) -> None:
        with begin(root / "run", then) as run:
            assert run.status == "created"
            assert json.loads(run.folder.resolved_recipe.read_bytes()) == RECIPE
            assert not any(map(is_leftover, run.folder.root.iterdir()))

    assert crash_everywhere(tmp_path, prepare_empty, act, check) > 10


def test_a_fresh_start_survives_a_power_cut_at_any_moment(tmp_path: Path) -> None:
    def act(root: Path, store: Store) -> None:
        begin(root / "run", "fresh", CHANGED, store).lock.release()

    def check(root: Path) -> None:
        old = root / "run.old-1" if (root / "run.old-1").exists() else root / "run"
        assert verify_folder(old / "checkpoints" / "step-00000010").facts["step"] == 10
        assert json.loads((old / "recipe.resolved.json").read_bytes()) == RECIPE
        with begin(root / "run", "fresh", CHANGED) as run:
            assert run.status == "created"
        assert sorted(path.name for path in root.iterdir()) == ["run", "run.old-1"]

    assert crash_everywhere(tmp_path, prepare_used, act, check) > 10


def test_a_resume_survives_a_power_cut_at_any_moment(tmp_path: Path) -> None:
    def act(root: Path, store: Store) -> None:
        begin(root / "run", "resume", RETIMED, store).lock.release()

    def check(root: Path) -> None:
        with begin(root / "run", "resume", RETIMED) as run:
            assert checkpoints.resume_point(run)[1] == []
            assert json.loads(run.folder.resolved_recipe.read_bytes()) == RETIMED
            assert run.folder.recipe.read_bytes().endswith(json.dumps(RETIMED).encode())

    assert crash_everywhere(tmp_path, prepare_used, act, check) > 10


@pytest.mark.parametrize("mode", ["fresh", "resume"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_failing_disk_costs_nothing_but_the_start(tmp_path: Path, mode: Mode, number: int) -> None:
    def act(root: Path, store: Store) -> None:
        begin(root / "run", mode, RETIMED, store).lock.release()

    def check(root: Path, disk: FailingDisk, error: StorageError) -> None:
        old = root / "run.old-1" if (root / "run.old-1").exists() else root / "run"
        assert verify_folder(old / "checkpoints" / "step-00000010").facts["step"] == 10
        begin(root / "run", mode, RETIMED).lock.release()  # the lock is free, and the next start succeeds

    assert fail_everywhere(tmp_path, number, prepare_used, act, check) > 10


def test_errors_of_this_room_have_a_code(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(LorafitError) as caught:
        begin(tmp_path / "x")
    assert all(fault.code and fault.where and fault.fix for fault in caught.value.faults)
    assert QUICK.sweep(tmp_path) == []
