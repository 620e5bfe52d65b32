"""What a step leaves to be read later, and what is made before it."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_recipe
from numpy.typing import NDArray
from test_oracle import BATCH, make_loop, one_row_packs, ragged_rows
from test_run import lines, weights_hash

from lorafit.errors import NumericalError
from lorafit.model.batch import DeviceBatch
from lorafit.train import course, run
from lorafit.train import loop as module
from lorafit.train.course import Course
from lorafit.train.evaluation import validation_loss
from lorafit.train.prefetch import Place, Prefetch
from lorafit.train.sizes import choose_sizes
from lorafit.train.start import start
from lorafit.train.taken import Late

CPU = torch.device("cpu")


@pytest.fixture
def slow_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the numbers of a step arrive late, as from a card."""
    monkeypatch.setattr(Late, "are_here", False)


def test_reading_a_step_late_changes_no_file_of_a_run(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"training__eval_every": 4, "training__save_every": 3, "training__max_steps": 10}
    loaded = write_recipe(tmp_path, tiny_model, **changes)
    start(loaded, tmp_path / "soon", "new")
    monkeypatch.setattr(Late, "are_here", False)
    start(loaded, tmp_path / "late", "new")
    assert weights_hash(tmp_path / "soon") == weights_hash(tmp_path / "late")
    timed = ("tokens_per_second", "peak_bytes")
    metrics = [
        [{k: v for k, v in line.items() if k not in timed} for line in lines(tmp_path / name / "metrics.jsonl")]
        for name in ("soon", "late")
    ]
    assert metrics[0] == metrics[1]
    events = [[(e["event"], e.get("step")) for e in lines(tmp_path / n / "events.jsonl")] for n in ("soon", "late")]
    assert events[0] == events[1]


@pytest.mark.usefixtures("slow_device")
def test_a_step_that_is_not_finite_is_named_a_step_late_and_nothing_is_applied_after_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, called = module.summed_loss, []
    monkeypatch.setattr(course, "rehearse", lambda *_: None)

    def third_is_not_a_number(*arguments: Any) -> torch.Tensor:
        called.append(1)
        return real(*arguments) * (float("nan") if len(called) == 3 else 1.0)

    monkeypatch.setattr(module, "summed_loss", third_is_not_a_number)
    changes = {"training__max_steps": 10, "training__micro_batch_size": 8, "training__save_every": 2}
    with pytest.raises(NumericalError, match=r"step 3: the loss is nan.*nothing of this step was applied"):
        start(write_recipe(tmp_path, tiny_model, **changes), tmp_path / "run", "new")
    assert len(called) == 4, "the fourth step was queued before the third was read"
    assert [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl")] == [1, 2]


def test_after_a_step_that_is_not_finite_no_weight_moves(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ragged_rows(BATCH)
    loop = make_loop(tiny_model, rows, one_row_packs(rows), micro=BATCH)
    loop.step(0).record()
    before = {name: p.detach().clone() for name, p in loop.parameters.items()}
    real = module.summed_loss
    monkeypatch.setattr(module, "summed_loss", lambda *a: real(*a) * float("inf"))
    bad = loop.step(1)
    monkeypatch.setattr(module, "summed_loss", real)
    loop.step(2)
    assert all(torch.equal(before[name], p) for name, p in loop.parameters.items())
    with pytest.raises(NumericalError, match="step 2"):
        bad.record()


def test_every_module_trains_from_the_first_step_on_and_after_an_evaluation(tiny_model: Path) -> None:
    rows = ragged_rows(BATCH)
    loop = make_loop(tiny_model, rows, one_row_packs(rows), micro=BATCH)
    assert all(part.training for part in loop.model.modules())
    validation_loss(loop, rows, one_row_packs(rows))
    assert all(part.training for part in loop.model.modules())


def test_a_run_goes_on_with_as_many_layers_recomputed_as_it_began_with(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"training__gradient_checkpointing": "auto", "training__save_every": 2, "training__max_steps": 6}
    loaded = write_recipe(tmp_path, tiny_model, **changes)
    start(loaded, tmp_path / "whole", "new")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "choose_sizes", lambda *a: replace(choose_sizes(*a), recomputed_layers=1))
        patch.setattr(Course, "_settle", stops_at(4))
        with pytest.raises(KeyboardInterrupt):
            start(loaded, tmp_path / "run", "new")
    start(loaded, tmp_path / "run", "resume")
    events = lines(tmp_path / "run" / "events.jsonl")
    assert [e["recomputed_layers"] for e in events if e["event"] in ("plan", "resume")] == [1, 0, 1]
    assert weights_hash(tmp_path / "run") == weights_hash(tmp_path / "whole")


def stops_at(step: int) -> Callable[[Course, Any], None]:
    real = Course._settle

    def settle(course: Course, reporter: Any) -> None:
        if course.position.step == step:
            raise KeyboardInterrupt
        real(course, reporter)

    return settle


def places(first: Place) -> Iterator[tuple[Place, NDArray[np.int64]]]:
    for step in range(first[0], 6):
        for index in range(3):
            if (step, index) >= first:
                yield (step, index), np.array([step, index])


def as_batch(packs: NDArray[np.int64]) -> Any:
    if packs.tolist() == [2, 1]:
        raise torch.OutOfMemoryError("no room for this one")
    return packs.tolist()


def test_batches_come_in_order_and_from_wherever_one_begins() -> None:
    ahead = Prefetch(places, as_batch, CPU)
    for first in [(0, 0), (4, 1), (0, 2)]:
        wanted = [place for place, _ in places(first)][:4]
        assert [ahead.take(place) for place in wanted] == [list(place) for place in wanted]
    ahead.close()


def test_what_goes_wrong_on_the_thread_surfaces_at_its_turn_and_the_thread_ends() -> None:
    before = set(threading.enumerate())
    ahead = Prefetch(places, as_batch, CPU)
    ahead.take((2, 0))
    with pytest.raises(torch.OutOfMemoryError, match="no room for this one"):
        ahead.take((2, 1))
    ahead.close()
    assert set(threading.enumerate()) <= before


def test_the_thread_ends_with_the_run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> DeviceBatch:
        raise NumericalError("made up", code="E8-NOT-FINITE")

    before = set(threading.enumerate())
    start(write_recipe(tmp_path, tiny_model), tmp_path / "whole", "new")
    assert set(threading.enumerate()) <= before
    monkeypatch.setattr(module, "to_device", broken)
    with pytest.raises(NumericalError, match="made up"):
        start(write_recipe(tmp_path, tiny_model, data__validation=None), tmp_path / "broken", "new")
    assert set(threading.enumerate()) <= before
