"""One writer at a time, told by the kernel: tried with real processes."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lorafit.errors import RunInUse, StorageError
from lorafit.rundir import lock as lock_module
from lorafit.rundir.holder import read_holder, this_process
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.lock import RunLock

HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.lock import RunLock
with RunLock(RunFolder(Path(sys.argv[1])), shared=sys.argv[2] == "shared"):
    worker = 0
    if sys.argv[2] == "with fork":
        awake, tell = os.pipe()
        worker = os.fork() or os.write(tell, b"x") and time.sleep(60)
        os.read(awake, 1)
    elif sys.argv[2] == "with program":
        worker = subprocess.Popen(["sleep", "60"], close_fds=False).pid
    print(worker, flush=True)
    sys.stdin.read()
"""

PAIRS = """
import json, os, sys, time
from pathlib import Path
from lorafit.errors import RunInUse
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.lock import RunLock

def contend(root, both_told, results):
    began = time.monotonic()
    try:
        with RunLock(RunFolder(root)):
            os.write(results, json.dumps({"won": os.getpid()}).encode() + b"\\n")
            os.read(both_told, 1)
    except RunInUse as error:
        said = {"lost": str(error), "code": error.exit_code, "seconds": time.monotonic() - began}
        os.write(results, json.dumps(said).encode() + b"\\n")

def pair(root):
    start, starter = os.pipe()  # closing the far end lets both go at once
    both_told, teller = os.pipe()
    told, results = os.pipe()
    pids = []
    for _ in range(2):
        pids.append(os.fork())
        if not pids[-1]:
            os.close(starter), os.close(teller)
            os.read(start, 1)
            contend(root, both_told, results)
            os._exit(0)
    os.close(starter)
    with os.fdopen(told) as lines:
        print(json.dumps([json.loads(lines.readline()) for _ in range(2)]))
    os.close(teller)
    for pid in pids:
        os.waitpid(pid, 0)
    for descriptor in (start, both_told, results):
        os.close(descriptor)

for number in range(int(sys.argv[2])):
    pair(Path(sys.argv[1]) / str(number) / "run")
"""


@contextmanager
def holder(root: Path, how: str = "exclusive") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Hold the lock in another process; give that and the id of a worker of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    worker = int(process.stdout.readline())
    try:
        yield process, worker
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        if worker:
            os.kill(worker, signal.SIGKILL)


def test_the_second_is_told_who_is_the_first(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as (process, _):
        with pytest.raises(RunInUse) as caught:
            RunLock(RunFolder(tmp_path / "run")).acquire()
        assert caught.value.exit_code == 9
        host = re.escape(socket.gethostname())
        assert re.search(rf"in use by pid {process.pid} on host {host} since 20\d\d-\d\d-\d\dT", str(caught.value))
        with pytest.raises(RunInUse, match=f"by pid {process.pid} on"):
            RunLock(RunFolder(tmp_path / "run"), shared=True).acquire()


@pytest.mark.parametrize("how", ["exclusive", "with fork", "with program"])
def test_a_killed_holder_holds_nothing(tmp_path: Path, how: str) -> None:
    with holder(tmp_path / "run", how) as (process, _):
        process.kill()
        process.wait()
        assert json.loads((tmp_path / "run/run.lock").read_text())["pid"] == process.pid  # stale, and no matter
        with RunLock(RunFolder(tmp_path / "run")):
            assert json.loads((tmp_path / "run/run.lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("change", "fate"),
    [
        ({}, "lives"),
        ({"process_started": None}, "lives"),  # signed by an older lorafit
        ({"process_started": 1}, "gone"),  # the id was given to another process since
        ({"boot_id": "of before"}, "gone"),
        ({"pid": 2**31 - 1}, "gone"),
        ({"host": "gpu3"}, "unknown"),
    ],
    ids=str,
)
def test_a_process_is_known_by_its_id_its_start_and_its_machine(change: dict[str, Any], fate: str) -> None:
    assert replace(this_process(), **change).fate == fate


@pytest.mark.parametrize("change", [{"pid": -1}, {"pid": 2**70}, {"pid": "1"}, {"pid": None}], ids=str)
def test_a_signature_that_is_none_names_nobody(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "signed").write_text(json.dumps(asdict(this_process())))
    assert read_holder(tmp_path / "signed") == this_process()
    (tmp_path / "signed").write_text(json.dumps(asdict(this_process()) | change))
    assert read_holder(tmp_path / "signed") is None


def test_every_process_has_a_start_of_its_own(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as (process, _):
        signed = read_holder(tmp_path / "run/run.lock")
        assert signed is not None
        assert (signed.pid, signed.fate) == (process.pid, "lives")
        assert signed.process_started is not None
        assert signed.process_started > (this_process().process_started or 0)  # this one was there before
        process.kill()
        process.wait()
        assert signed.fate == "gone"


LEAVE = """
import os, sys
from pathlib import Path
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.lock import RunLock
with RunLock(RunFolder(Path(sys.argv[1]))):
    child = os.fork()
    if child:
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            RunLock(RunFolder(Path(sys.argv[1]))).acquire()
        except Exception as error:
            print(ended, type(error).__name__)
"""


def test_a_forked_worker_that_ends_lets_go_of_nothing(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", LEAVE, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    assert told.stdout == "0 RunInUse\n"


def test_of_two_that_start_together_one_wins(tmp_path: Path) -> None:
    pairs = 50
    ran = subprocess.run(
        [sys.executable, "-c", PAIRS, str(tmp_path), str(pairs)], capture_output=True, text=True, check=True
    )
    outcomes = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(outcomes) == pairs
    for outcome in outcomes:
        (won,) = [end for end in outcome if "won" in end]
        (lost,) = [end for end in outcome if "lost" in end]
        assert f"by pid {won['won']} on host {socket.gethostname()} since 20" in lost["lost"]
        assert lost["code"] == 9
        assert lost["seconds"] < 2


def test_readers_share_and_keep_a_writer_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    RunLock(folder).acquire().release()
    refused = pytest.raises(RunInUse, match="by another lorafit command that reads it")
    with holder(folder.root, "shared"), RunLock(folder, shared=True), refused:
        RunLock(folder).acquire()
    with RunLock(folder):
        pass


def test_a_killed_writer_is_not_taken_for_the_reader_after_it(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as (process, _):
        process.kill()
        process.wait()
    with holder(tmp_path / "run", "shared"), pytest.raises(RunInUse, match="that reads it"):
        RunLock(RunFolder(tmp_path / "run")).acquire()


def test_another_host_is_believed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with RunLock(folder):
        who = {"host": "gpu3", "pid": 4121, "boot_id": "x", "started": "14:02"}
        folder.lock.write_text(json.dumps(who))
        with pytest.raises(RunInUse, match=r"run: is in use by pid 4121 on host gpu3 since 14:02; .* \[E9-LOCKED\]"):
            RunLock(folder).acquire()


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", '{"host": 1}'])
def test_what_stands_in_the_file_is_for_people_only(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    folder.lock.write_text(text)
    with RunLock(folder):
        folder.lock.write_text(text)
        with pytest.raises(RunInUse):
            RunLock(folder).acquire()
    assert folder.lock.read_text() == ""


def test_a_reader_makes_nothing(tmp_path: Path) -> None:
    with RunLock(RunFolder(tmp_path / "run"), shared=True):
        assert list(tmp_path.iterdir()) == []
    with RunLock(RunFolder(tmp_path), shared=True):
        assert list(tmp_path.iterdir()) == []


def test_releasing_twice_harms_no_other(tmp_path: Path) -> None:
    first = RunLock(RunFolder(tmp_path / "a")).acquire()
    first.release()
    with RunLock(RunFolder(tmp_path / "b")):  # gets the same descriptor
        first.release()
        with pytest.raises(RunInUse):
            RunLock(RunFolder(tmp_path / "b")).acquire()


def test_a_folder_moved_aside_meanwhile_is_locked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    taken = []

    def flock(descriptor: int, how: int) -> None:
        if not taken:
            folder.root.rename(tmp_path / "run.old-1")
        taken.append(descriptor)

    monkeypatch.setattr(lock_module.fcntl, "flock", flock)
    with RunLock(folder):
        assert len(taken) == 2
        assert json.loads(folder.lock.read_text())["pid"] == os.getpid()
        assert (tmp_path / "run.old-1" / "run.lock").read_text() == ""


def test_a_file_system_without_locks_is_an_error_of_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StorageError, match="this file system has no locks"):
        RunLock(RunFolder(tmp_path / "run")).acquire()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(StorageError, match="E7-PATH"):
        RunLock(RunFolder(tmp_path / "run")).acquire()
