"""Rows prepared in several processes are those of one, whatever becomes of the processes."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import byte_tokenizer, chat_rows, write_rows

from lorafit.data import workers
from lorafit.data.cache import Cache
from lorafit.data.prepare import PreparedData, prepare
from lorafit.data.workshop import Workshop
from lorafit.errors import DataError, SafetyRefusal
from lorafit.recipe.formats import Example
from lorafit.recipe.schema import Recipe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WINDOW_ROWS", 3)
    monkeypatch.setattr(workers, "worker_count", lambda: 2)


def rows_with_faults() -> list[dict[str, Any]]:
    rows = chat_rows(60)
    rows[31]["messages"][0]["content"] = None
    rows[40]["messages"] = rows[40]["messages"][:1]
    rows[50]["messages"][1]["content"] = "long " * 60
    return rows


def prepared(folder: Path, windows_here: int, monkeypatch: pytest.MonkeyPatch, **data: Any) -> PreparedData:
    monkeypatch.setattr(workers, "WINDOWS_HERE", windows_here)
    path = write_rows(folder / "rows.jsonl", rows_with_faults())
    settings = {"train": {"path": str(path)}, "max_length": 128, "on_bad_row": "skip", "on_overlong": "truncate"}
    recipe = Recipe.model_validate({"version": 1, "model": {"path": "m"}, "data": settings | data})
    return prepare(recipe, byte_tokenizer())


def assert_same(one: PreparedData, other: PreparedData) -> None:
    assert one.report == other.report
    assert np.array_equal(one.train.tokens, other.train.tokens)
    assert np.array_equal(one.train.trained, other.train.trained)


def test_several_processes_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    here = workers._here

    def noted(shop: Workshop, window: workers.Window) -> Any:
        seen.append(len(window))
        return here(shop, window)

    monkeypatch.setattr(workers, "_here", noted)
    several = prepared(tmp_path, 1, monkeypatch)
    assert len(seen) == 1  # all other windows were worked through elsewhere
    assert_same(several, prepared(tmp_path, 10**6, monkeypatch))
    assert several.report.counts.bad == 2
    assert several.report.counts.truncated == 1


def test_a_process_that_is_killed_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepared(tmp_path, 10**6, monkeypatch)
    parent, outcomes = os.getpid(), Workshop.outcomes

    def killed(shop: Workshop, window: Sequence[Example]) -> Any:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcomes(shop, window)

    monkeypatch.setattr(Workshop, "outcomes", killed)
    assert_same(prepared(tmp_path, 1, monkeypatch), whole)


def test_what_stops_the_run_is_met_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(shop: Workshop, window: Sequence[Example]) -> Any:
        raise SafetyRefusal("no", code="E12-TEMPLATE")

    first = workers._here
    calls: list[int] = []

    def once(shop: Workshop, window: workers.Window) -> Any:
        calls.append(1)
        return first(shop, window)

    monkeypatch.setattr(workers, "_here", once)
    monkeypatch.setattr(Workshop, "outcomes", refuse)
    monkeypatch.setattr(workers, "WINDOWS_HERE", 0)
    with pytest.raises(SafetyRefusal):
        prepared(tmp_path, 0, monkeypatch)
    assert len(calls) == 1


def test_processes_end_with_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    prepared(tmp_path, 0, monkeypatch)
    gone, alive = psutil.wait_procs(psutil.Process().children(), timeout=10)
    assert not alive, gone


KILLED_WHILE_IDLE = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import byte_tokenizer
from lorafit.data import workers
from lorafit.data.cache import Cache
from lorafit.data.prepare import prepare
from lorafit.recipe.schema import Recipe
from lorafit.train.signals import listening
workers.WINDOW_ROWS, workers.WINDOWS_HERE, workers.worker_count = 3, 1, lambda: 2
ahead = workers._ahead
def killing(*arguments):
    windows = list(ahead(*arguments))
    time.sleep(0.3)
    processes = sorted(multiprocessing.active_children(), key=lambda process: process.pid)
    os.kill(processes[1].pid, signal.SIGKILL)
    time.sleep(0.3)
    yield from windows
workers._ahead = killing
settings = {{"train": {{"path": {path!r}}}, "max_length": 128}}
recipe = Recipe.model_validate({{"version": 1, "model": {{"path": "m"}}, "data": settings}})
with listening():
    print(prepare(recipe, byte_tokenizer(), Cache(Path({root!r}), 2**30)).fingerprint)
"""


def test_a_process_killed_while_idle_holds_up_nothing(tmp_path: Path) -> None:
    path, root = write_rows(tmp_path / "rows.jsonl", chat_rows(30)), tmp_path / "cache"
    script = KILLED_WHILE_IDLE.format(tests=str(Path(__file__).parent), path=str(path), root=str(root))
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=30, start_new_session=True)
    assert done.returncode == 0, done.stderr
    data = {"train": {"path": str(path)}, "max_length": 128}
    recipe = Recipe.model_validate({"version": 1, "model": {"path": "m"}, "data": data})
    assert done.stdout.split() == [prepare(recipe, byte_tokenizer()).fingerprint]
    (lock,) = root.glob("*/lock")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("fork", [1, 2])
def test_processes_that_cannot_be_had_are_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork: int
) -> None:
    import psutil

    whole, forked, forks = prepared(tmp_path, 10**6, monkeypatch), os.fork, []

    def fails() -> int:
        forks.append(1)
        if len(forks) == fork:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return forked()

    monkeypatch.setattr(os, "fork", fails)
    assert_same(prepared(tmp_path, 1, monkeypatch), whole)
    assert len(forks) == fork
    assert not psutil.Process().children()


def test_semaphores_that_cannot_be_had_are_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepared(tmp_path, 10**6, monkeypatch)

    def fails(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", fails)
    assert_same(prepared(tmp_path, 1, monkeypatch), whole)


def test_a_system_that_fails_while_rows_are_read_is_not_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorafit.data import load

    def fails(*arguments: object) -> Any:
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr(load, "worked", fails)
    cache = Cache(tmp_path / "cache", 2**30)
    path = write_rows(tmp_path / "rows.jsonl", chat_rows(3))
    recipe = Recipe.model_validate({"version": 1, "model": {"path": "m"}, "data": {"train": {"path": str(path)}}})
    with pytest.raises(DataError) as caught:
        prepare(recipe, byte_tokenizer(), cache)
    assert [fault.code for fault in caught.value.faults] == ["E3-FILE-READ"]
    assert not cache.troubles
