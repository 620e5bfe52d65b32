"""Before the first step: what must fail fails, and what does not leaves no trace in the result."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import write_recipe
from safetensors.torch import load_file
from test_oracle import BATCH, make_loop, one_row_packs, ragged_rows
from test_run import lines
from test_step import stops_at
from transformers import PreTrainedModel

from lorafit.errors import NumericalError, OutOfMemory, StorageError
from lorafit.model.batch import DeviceBatch
from lorafit.rundir import disk
from lorafit.rundir.layout import RunFolder
from lorafit.train import course
from lorafit.train import loop as module
from lorafit.train.ranks import Ranks
from lorafit.train.rehearsal import longest_pass
from lorafit.train.start import start

DROPPED = {"adapter__dropout": 0.1, "training__save_every": 3, "training__micro_batch_size": 2}


@pytest.mark.parametrize("changes", [{}, {"training__optimizer": "adamw_8bit"}, {"adapter": {"kind": "full"}}], ids=str)
def test_with_and_without_a_rehearsal_a_run_is_the_same_byte_for_byte(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    given = {key: value for key, value in DROPPED.items() if not (key.startswith("adapter") and "adapter" in changes)}
    loaded = write_recipe(tmp_path, tiny_model, **given, **changes)
    start(loaded, tmp_path / "with", "new")
    monkeypatch.setattr(course, "rehearse", lambda *_: None)
    start(loaded, tmp_path / "without", "new")
    found = [sorted((tmp_path / name).rglob("*.safetensors")) for name in ("with", "without")]
    names = [
        [path.relative_to(tmp_path / name) for path in paths]
        for name, paths in zip(("with", "without"), found, strict=True)
    ]
    assert names[0] == names[1] != []
    assert [path.read_bytes() for path in found[0]] == [path.read_bytes() for path in found[1]]
    losses = [[line["loss"] for line in lines(tmp_path / name / "metrics.jsonl")] for name in ("with", "without")]
    assert losses[0] == losses[1]
    told = [e for e in lines(tmp_path / "with" / "events.jsonl") if e["event"] == "rehearsal"]
    assert len(told) == 1
    assert told[0]["tokens"] > 0
    assert not RunFolder(tmp_path / "with").rehearsal.exists()


def test_the_longest_pass_is_the_longest_of_the_run(tiny_model: Path) -> None:
    rows = ragged_rows(29)
    loop = make_loop(tiny_model, rows, one_row_packs(rows), micro=3)
    every = [
        (packs, loop.packs.tokens(rows, packs)) for step in range(20) for packs, _ in loop.passes(loop._window(step))
    ]
    longest = max(every, key=lambda each: each[1])
    assert np.array_equal(longest_pass(loop, rows, loop.packs), longest[0])


@pytest.mark.parametrize("rank", [0, 1])
def test_the_longest_of_several_processes_is_that_of_rows_as_they_are_dealt(tiny_model: Path, rank: int) -> None:
    rows = ragged_rows(29)
    loop = make_loop(tiny_model, rows, one_row_packs(rows), micro=3)
    loop.recipe = loop.recipe.model_copy(update={"data": loop.recipe.data.model_copy(update={"packing": False})})
    loop.ranks = cast("Ranks", SimpleNamespace(count=2, rank=rank))
    assert loop.dealt_by is not None
    every = [packs for step in range(20) for packs, _ in loop.passes(loop._window(step), loop.dealt_by)]
    most = max(loop.packs.tokens(rows, packs) for packs in every)
    assert loop.packs.tokens(rows, longest_pass(loop, rows, loop.packs)) == most


def test_a_rehearsal_is_not_repeated_on_the_same_machine(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model, training__save_every=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course.Course, "_settle", stops_at(4))
        with pytest.raises(KeyboardInterrupt):
            start(loaded, tmp_path / "run", "new")
    start(loaded, tmp_path / "run", "resume")
    assert [e["event"] for e in lines(tmp_path / "run" / "events.jsonl")].count("rehearsal") == 1


def test_a_disk_without_room_for_a_checkpoint_is_found_before_the_first_step(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_free_bytes", lambda _: 50_000)
    with pytest.raises(StorageError, match=r"rehearsal|free") as caught:
        start(write_recipe(tmp_path, tiny_model), tmp_path / "run", "new")
    assert "E7-NOSPACE" in str(caught.value.faults[0].code)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_loss_that_is_not_finite_is_found_before_the_first_step(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.summed_loss
    monkeypatch.setattr(module, "summed_loss", lambda *arguments: real(*arguments) * float("nan"))
    with pytest.raises(NumericalError, match="before the first step: the loss of the longest pass is nan"):
        start(write_recipe(tmp_path, tiny_model), tmp_path / "run", "new")


def full_above(rows: int) -> Callable[[PreTrainedModel, DeviceBatch], torch.Tensor]:
    real = module.summed_loss

    def loss(model: PreTrainedModel, batch: DeviceBatch) -> torch.Tensor:
        if len(batch.lengths) > rows:
            raise torch.OutOfMemoryError("device full")
        return real(model, batch)

    return loss


def test_a_full_device_is_found_before_the_first_step_and_changes_no_number(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (
        write_recipe(tmp_path, tiny_model, adapter__dropout=0.1, training__micro_batch_size=size) for size in (2, BATCH)
    )
    start(small, tmp_path / "small", "new")
    monkeypatch.setattr(module, "summed_loss", full_above(2))
    start(large, tmp_path / "pressed", "new")
    one, other = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("small", "pressed"))
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


def test_a_device_full_at_one_row_names_three_edits_with_what_they_save(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "summed_loss", full_above(0))
    loaded = write_recipe(tmp_path, tiny_model, data__max_length=2048)
    with pytest.raises(OutOfMemory, match="device full; one row a pass was estimated at") as caught:
        start(loaded, tmp_path / "run", "new")
    fix = caught.value.faults[0].fix
    assert len(re.findall(r"\(-[\d.]+ [KMG]iB\)", fix)) == 3, fix
    assert "training.gradient_checkpointing: full" in fix
