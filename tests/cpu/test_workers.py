"""Rows prepared in several processes are those of one, whatever becomes of the processes."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import byte_tokenizer, chat_rows, write_rows

from lorafit.data import workers
from lorafit.data.prepare import PreparedData, prepare
from lorafit.data.workshop import Workshop
from lorafit.errors import SafetyRefusal
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
