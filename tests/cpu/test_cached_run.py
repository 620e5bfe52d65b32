"""Runs whose data comes from the cache, on resuming too, are the runs that prepare it themselves."""

import shutil
from pathlib import Path

import pytest
from conftest import write_recipe
from several import train_in
from test_run import LONG, killed_after, lines, weights_hash

from lorafit.rundir.layout import RunFolder
from lorafit.train.start import start


@pytest.mark.parametrize("deleted", [False, True])
def test_a_resumed_run_does_not_depend_on_the_cache(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], deleted: bool
) -> None:
    loaded = write_recipe(tmp_path, tiny_model, **LONG)
    start(loaded, tmp_path / "plain", "new")
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path / "cache"))
    killed_after(6, loaded, tmp_path / "run", "new")
    if deleted:
        shutil.rmtree(tmp_path / "cache")
    capsys.readouterr()
    start(loaded, tmp_path / "run", "resume")
    assert ("data: from the cache" in capsys.readouterr().err) is not deleted
    assert weights_hash(tmp_path / "run") == weights_hash(tmp_path / "plain")
    plain, run = (RunFolder(tmp_path / name) for name in ("plain", "run"))
    assert plain.data_report.read_bytes() == run.data_report.read_bytes()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_two_processes_prepare_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    changes = {"training__global_batch_size": 4, "training__micro_batch_size": 2, "training__max_steps": 2}
    loaded = write_recipe(tmp_path, tiny_model, **changes)
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path / "cache"))
    said = []
    for name in ("one", "two"):
        train_in(2, loaded, tmp_path / name)
        said.append("data: from the cache" in capfd.readouterr().err)
    assert said == [False, True]
    assert len(list((tmp_path / "cache" / "data").glob("*/entry"))) == 2  # the rows to train and to validate on
    losses = [[line["loss"] for line in lines(tmp_path / name / "metrics.jsonl")] for name in ("one", "two")]
    assert losses[0] == losses[1]
