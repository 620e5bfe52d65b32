"""The newest whole checkpoint is found, whatever lies around it, and is never lost."""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafit.errors import ResumeRefused, StorageError
from lorafit.rundir import checkpoints, journal
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.state import Run, read_state
from lorafit.rundir.store import Store, is_leftover, verify_folder
from rundir.faulty_disk import Crash, CrashingDisk, crash_everywhere
from rundir.runs import QUICK, begin, filling


def save(run: Run, *steps: int) -> None:
    for step in steps:
        checkpoints.save(run, step, filling(str(step)), {"loss": 1.0})


def newest_step(run: Run) -> int | None:
    found, _ = checkpoints.newest_valid(run)
    return found.step if found else None


def damage(folder: Path) -> None:
    (folder / "state.json").write_text("{}")


def test_a_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        first = checkpoints.save(run, 10, filling("10"), {"loss": 0.5})
        second = checkpoints.save(run, 20, filling("20"), {})
        found, warnings = checkpoints.newest_valid(run)
    assert first.facts == {"run_id": run.state.run_id, "step": 10, "previous": None, "loss": 0.5}
    assert second.facts["previous"] == first.sha256
    assert found is not None
    assert (found.step, found.commit, warnings) == (20, second, [])
    assert found.path == tmp_path / "run/checkpoints/step-00000020"
    assert (read_state(run.folder).status, read_state(run.folder).step) == ("running", 20)
    events = journal.read_events(run.folder)
    assert [(event["event"], event.get("step")) for event in events] == [
        ("created", None), ("running", 10), ("saved", 10), ("saved", 20),
    ]  # fmt: skip


def test_the_chain_goes_on_in_another_process(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        save(run, 10)
    with begin(tmp_path / "run", "resume") as run:
        save(run, 20)
        assert run.last_commit is not None
        assert run.last_commit.facts["previous"] == verify_folder(run.folder.checkpoint(10)).sha256


def test_the_names_of_the_facts_are_taken(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run, pytest.raises(AssertionError):
        checkpoints.save(run, 10, filling("x"), {"step": 11})


def test_a_valid_checkpoint_is_not_written_over(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        save(run, 10)
        with pytest.raises(StorageError, match="is already there"):
            save(run, 10)
        damage(run.folder.checkpoint(10))
        save(run, 10)
        assert newest_step(run) == 10


# ---------------------------------------------------------------- damaged checkpoints

DAMAGES = {
    "empty": lambda path: os.truncate(path, 0),
    **{
        f"cut to {tenth} tenths": lambda path, tenth=tenth: os.truncate(path, path.stat().st_size * tenth // 10)
        for tenth in range(1, 10)
    },
    "missing": lambda path: path.unlink(),
    "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "extra": lambda path: path.with_suffix(".bak").touch(),
}


@pytest.mark.parametrize("damage_name", DAMAGES)
@pytest.mark.parametrize("file", ["adapter.safetensors", "state.json", "COMMIT.json"])
def test_a_damaged_checkpoint_is_skipped_with_one_warning(tmp_path: Path, file: str, damage_name: str) -> None:
    with begin(tmp_path / "run") as run:
        save(run, 10, 20)
        hurt = run.folder.checkpoint(20) / file
        DAMAGES[damage_name](hurt)
        found, warnings = checkpoints.resume_point(run)
        assert found is not None
        assert found.step == 10
        assert len(warnings) == 1
        assert "step-00000020 is skipped" in warnings[0]
        assert (hurt.with_suffix(".bak") if damage_name == "extra" else hurt).name in warnings[0]
        save(run, 20)  # the run gets there again
        assert newest_step(run) == 20


def test_checkpoints_of_others_are_skipped(tmp_path: Path) -> None:
    with begin(tmp_path / "other") as run:
        save(run, 30)
    with begin(tmp_path / "run") as run:
        save(run, 10)
        shutil.copytree(tmp_path / "other/checkpoints/step-00000030", run.folder.checkpoint(30))
        shutil.copytree(run.folder.checkpoint(10), run.folder.checkpoint(20))
        found, warnings = checkpoints.newest_valid(run)
    assert found is not None
    assert found.step == 10
    assert "its run_id is " in warnings[0]
    assert warnings[1].endswith("step-00000020 is skipped: its step is 10, not 20")


def test_no_whole_checkpoint_is_no_start_at_zero(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        assert checkpoints.resume_point(run) == (None, [])
        save(run, 10, 20)
        for step in (10, 20):
            damage(run.folder.checkpoint(step))
        with pytest.raises(ResumeRefused) as caught:
            checkpoints.resume_point(run)
    assert len(caught.value.faults) == 2
    assert "state.json has 2 bytes" in str(caught.value)


def test_a_resume_drops_the_metrics_after_its_checkpoint(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        for step in range(1, 16):
            journal.record_metrics(run, {"step": step, "loss": 1 / step})
            if step == 10:
                save(run, 10)
    with begin(tmp_path / "run", "resume") as run:
        checkpoints.resume_point(run)
        assert [line["step"] for line in journal.read_metrics(run.folder)] == list(range(1, 11))


# ---------------------------------------------------------------- retention


def test_the_newest_and_the_protected_are_kept(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        save(run, 10, 20, 30, 40, 50)
        assert checkpoints.retain(run, 2, {10, 999}) == [30, 20]
        assert run.folder.checkpoint_steps() == [50, 40, 10]
        assert checkpoints.retain(run, 2) == [10]
        assert checkpoints.retain(run, 0) == [40]  # never the newest


def test_a_damaged_newest_does_not_cost_the_last_whole_one(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        save(run, 10, 20, 30, 40)
        for step in (20, 30, 40):
            damage_in_place(run.folder.checkpoint(step))
        assert checkpoints.retain(run, 2) == []
        assert newest_step(run) == 10


def test_only_what_is_plainly_of_this_run_is_deleted(tmp_path: Path) -> None:
    with begin(tmp_path / "other") as run:
        save(run, 5)
    with begin(tmp_path / "run") as run:
        save(run, 10, 20, 30, 40)
        shutil.copytree(tmp_path / "other/checkpoints/step-00000005", run.folder.checkpoint(5))
        shutil.copytree(run.folder.checkpoint(10), run.folder.checkpoint(6))
        (run.folder.checkpoint(20) / "notes.txt").touch()
        run.folder.checkpoint(7).mkdir()
        assert checkpoints.retain(run, 1) == [30, 10]
        assert run.folder.checkpoint_steps() == [40, 20, 7, 6, 5]


def damage_in_place(folder: Path) -> None:
    """Flip a bit, so that only the hash can tell."""
    path = folder / "adapter.safetensors"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


ACTIONS = st.one_of(
    st.tuples(st.just("save"), st.integers(1, 5)),
    st.tuples(st.sampled_from(["flip", "hollow"]), st.integers(0, 3)),
    st.tuples(st.just("foreign"), st.integers(1, 60)),
    st.tuples(st.just("copy"), st.integers(1, 60)),
    st.tuples(st.just("protect"), st.integers(0, 60)),
    st.tuples(st.just("retain"), st.integers(0, 4)),
    st.tuples(st.just("crash"), st.integers(0, 12)),
    st.tuples(st.just("resume"), st.just(0)),
)


class History:
    """One run through whatever hypothesis thinks of; `act` checks that retention keeps its promises."""

    def __init__(self, root: Path) -> None:
        self.run = begin(root)
        self.step = 0
        self.protected: set[int] = set()
        self.strangers: set[int] = set()

    def act(self, action: str, number: int) -> None:
        if action == "save":
            self.save(number)
        elif action in ("flip", "hollow"):
            self.damage(action, number)
        elif action == "foreign":
            self.plant(number, run_id="another")
        elif action == "copy":
            self.plant(number, run_id=self.run.state.run_id)
        elif action == "protect":
            self.protected.add(number)
        elif action == "resume":
            self.step = newest_step(self.run) or 0
        else:
            self.retain(number, crashes=action == "crash")

    def save(self, stride: int) -> None:
        self.step += stride
        while self.step in self.strangers:
            self.step += 1
        if newest_step(self.run) != self.step and self.step not in self.whole():
            save(self.run, self.step)

    def damage(self, action: str, index: int) -> None:
        steps = self.run.folder.checkpoint_steps()
        if index < len(steps) and steps[index] not in self.strangers:
            folder = self.run.folder.checkpoint(steps[index])
            damage_in_place(folder) if action == "flip" else damage(folder)

    def plant(self, step: int, run_id: str) -> None:
        """Put a valid folder there that this run did not write under that name."""
        if not self.run.folder.checkpoint(step).exists():
            facts = {"run_id": run_id, "step": step if run_id == "another" else step + 1}
            QUICK.commit_folder(self.run.folder.checkpoint(step), filling("stranger"), facts)
            self.strangers.add(step)

    def whole(self) -> set[int]:
        steps = self.run.folder.checkpoint_steps()
        return {step for step in steps if checkpoints._is_whole(self.run.folder.checkpoint(step))}

    def retain(self, number: int, *, crashes: bool) -> None:
        newest, own = newest_step(self.run), self.whole() - self.strangers
        kept = 2 if crashes else max(number, 1)
        if crashes:
            self.crash(number, kept)
        else:
            checkpoints.retain(self.run, kept, self.protected)
        left = self.whole()
        assert newest_step(self.run) == newest
        assert self.strangers <= left
        assert self.protected & own <= left
        assert set(sorted(own)[-kept:]) <= left
        if not crashes:
            assert len(own & left) <= kept + len(own & self.protected)

    def crash(self, at: int, kept: int) -> None:
        disk = CrashingDisk(self.run.folder.root, at)
        with suppress(Crash):
            checkpoints.retain(replace(self.run, store=Store(disk)), kept, self.protected)
        disk.close()
        checkpoints.sweep(self.run)


def live_through(root: Path, actions: list[tuple[str, int]]) -> None:
    history = History(root)
    with history.run:
        for action, number in actions:
            history.act(action, number)


@settings(deadline=None, max_examples=100)
@given(actions=st.lists(ACTIONS, max_size=25))
def test_retention_never_loses_what_it_must_keep(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    live_through(tmp_path_factory.mktemp("history") / "run", actions)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(deadline=None, max_examples=5000)
@given(actions=st.lists(ACTIONS, max_size=25))
def test_retention_never_loses_what_it_must_keep_in_5000_histories(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    live_through(tmp_path_factory.mktemp("history") / "run", actions)


# ---------------------------------------------------------------- power cuts


def test_a_run_survives_a_power_cut_at_any_moment_of_a_save(tmp_path: Path) -> None:
    def prepare(root: Path) -> None:
        with begin(root / "run") as run:
            save(run, 10, 20)

    def act(root: Path, store: Store) -> None:
        with begin(root / "run", "resume", store=store) as run:
            checkpoints.resume_point(run)
            journal.record_metrics(run, {"step": 30, "loss": 1.0})
            save(run, 30)
            checkpoints.retain(run, 2)

    def check(root: Path) -> None:
        with begin(root / "run", "resume") as run:
            found, warnings = checkpoints.resume_point(run)
            assert warnings == []
            assert found is not None
            assert found.step in (20, 30)
            assert (found.path / "state.json").read_text() == json.dumps({"marker": str(found.step)})
            if found.step == 30:
                assert [line["step"] for line in journal.read_metrics(run.folder)] == [30]
            for folder in (run.folder.root, run.folder.checkpoints):
                assert not any(map(is_leftover, folder.iterdir()))

    assert crash_everywhere(tmp_path, prepare, act, check) >= 25


def test_a_crash_keeps_the_files_that_were_read_by_eval(tmp_path: Path) -> None:
    """A shared reader never sees a checkpoint folder change under it: retention renames it away first."""
    with begin(tmp_path / "run") as run:
        save(run, 10, 20, 30)
        reader = (RunFolder(tmp_path / "run").checkpoint(10) / "state.json").open()
        checkpoints.retain(run, 1)
        with reader:
            assert json.load(reader) == {"marker": "10"}
