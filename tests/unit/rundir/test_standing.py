"""A run whose process was killed is not said to be running, and one that is on another machine not to have ended."""

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lorafit.errors import RunInUse
from lorafit.rundir import journal
from lorafit.rundir.holder import this_process
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.lock import RunLock
from lorafit.rundir.state import read_standing
from rundir.runs import begin


def leave_running(root: Path, **signed: object) -> RunFolder:
    """Leave a run as a kill leaves it, after step 9, and in its lock file whoever is named."""
    with begin(root) as run:
        run.mark("running", step=7)
        for step in (8, 9):
            journal.record_metrics(run, {"step": step})
    run.folder.lock.write_text(json.dumps(asdict(replace(this_process(), **signed))))  # type: ignore[arg-type]
    return run.folder


@pytest.mark.parametrize(
    ("signed", "said", "fix"),
    [
        ({"process_started": 1}, r"stopped without a word \(killed\?\) at step 9", "lorafit train RECIPE --resume"),
        ({"pid": 2**31 - 1}, r"stopped without a word \(killed\?\) at step 9", "lorafit train RECIPE --resume"),
        ({"host": "gpu3"}, "was at step 9 under pid .* on host gpu3 .* cannot tell", "look on gpu3"),
        ({}, "is being trained by pid OWN on host .* at step 9", "wait until it ends"),
    ],
    ids=str,
)
def test_a_killed_run_is_not_said_to_be_running(tmp_path: Path, signed: dict[str, object], said: str, fix: str) -> None:
    folder, said = leave_running(tmp_path / "run", **signed), said.replace("OWN", str(os.getpid()))
    standing = read_standing(folder)
    assert re.search(said, standing.what)
    assert fix in standing.fix
    with pytest.raises(RunInUse, match=f"holds a run that {said}"):
        begin(folder.root)


def test_a_run_that_is_open_is_being_trained(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        for status in ("created", "running"):
            if status == "running":
                run.mark("running")
            assert read_standing(run.folder).what.startswith(f"is being trained by pid {os.getpid()} on host")
        run.mark("stopped", step=3)
        with pytest.raises(RunInUse, match="wait until it ends  ") as caught:
            RunLock(run.folder, shared=True).acquire()
        assert "--out" not in str(caught.value)
    assert read_standing(run.folder).what == "is stopped at step 3"


def test_a_finished_run_needs_no_resuming(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        run.mark("running")
        journal.record_metrics(run, {"step": 6})
        run.mark("finished", step=6, exit_code=0)
    with pytest.raises(RunInUse, match="is finished at step 6; use it as it is, or add --fresh to start anew"):
        begin(run.folder.root)
