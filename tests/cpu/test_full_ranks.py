"""A device that is full in one of several processes: all take the step again, in smaller passes, or all end with 6."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_recipe
from several import begin, end, train_in
from test_ranks import losses
from transformers import PreTrainedModel

from lorafit.errors import OutOfMemory
from lorafit.model.batch import DeviceBatch
from lorafit.train import loop as module

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SIZES: dict[str, Any] = {"training__global_batch_size": 8, "training__micro_batch_size": 2}


def fill_device(patch: pytest.MonkeyPatch, *, rank: int, step: int, rows: int) -> None:
    """Have the second pass of a step find the device of one process full, if it has more than so many rows."""
    accumulate, real, calls = module.Loop.accumulate, module.summed_loss, [-1]

    def begins(loop: module.Loop, now: int, targets: int) -> torch.Tensor:
        calls[0] = 0 if now == step else -9
        return accumulate(loop, now, targets)

    def loss(model: PreTrainedModel, batch: DeviceBatch) -> torch.Tensor:
        calls[0] += 1
        if os.environ["RANK"] == str(rank) and calls[0] == 2 and len(batch.lengths) > rows:
            raise torch.OutOfMemoryError("device full")
        return real(model, batch)

    patch.setattr(module.Loop, "accumulate", begins)
    patch.setattr(module, "summed_loss", loss)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_curve_is_that_of_devices_with_room(
    tiny_model: Path, tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = write_recipe(tmp_path, tiny_model, **SIZES, training__save_every=1, training__keep_checkpoints=9)
    train_in(2, loaded, tmp_path / "roomy")
    fill_device(monkeypatch, rank=rank, step=3, rows=1)
    train_in(2, loaded, tmp_path / "pressed")
    roomy, pressed = losses(tmp_path / "roomy"), losses(tmp_path / "pressed")
    assert pressed == pytest.approx(roomy, abs=1e-6)
    assert pressed[:3] == roomy[:3]
    saved = sorted((tmp_path / "pressed" / "checkpoints").glob("step-*"))
    rows = [json.loads((folder / "state.json").read_text())["micro_batch_size"] for folder in saved]
    assert rows == [2, 2, 2, 1, 1, 1]


def test_a_rehearsal_that_finds_it_changes_no_number(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (write_recipe(tmp_path, tiny_model, **SIZES | {"training__micro_batch_size": n}) for n in (1, 4))
    train_in(2, small, tmp_path / "small")
    real = module.summed_loss

    def loss(model: PreTrainedModel, batch: DeviceBatch) -> torch.Tensor:
        if os.environ["RANK"] == "1" and len(batch.lengths) > 1:
            raise torch.OutOfMemoryError("device full")
        return real(model, batch)

    monkeypatch.setattr(module, "summed_loss", loss)
    train_in(2, large, tmp_path / "pressed")
    assert losses(tmp_path / "pressed") == losses(tmp_path / "small")


@pytest.mark.parametrize("step", [0, 2])
def test_at_one_row_all_end_with_the_edits(
    tiny_model: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fill_device(monkeypatch, rank=1, step=step, rows=0)
    loaded = write_recipe(tmp_path, tiny_model, **SIZES, data__max_length=2048)
    codes = end(begin(loaded, [tmp_path / "run"] * 2))
    assert codes == [OutOfMemory.exit_code] * 2
    said = capfd.readouterr().err
    assert "the device of another process is full" in said
    assert "out of device memory: device full" in said
    assert len(re.findall(r"\(-[\d.]+ [KMG]iB\)", said)) == 2 * 3
