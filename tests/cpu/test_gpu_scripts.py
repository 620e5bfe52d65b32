"""What `make gpu` runs on a card runs here at a toy's size: every cell, the driver, the table."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from lorafit.model.adapt import Attached
from scripts.gpu.__main__ import main, no_card, read
from scripts.gpu.build import random_model
from scripts.gpu.cell import measure
from scripts.gpu.cells import Cell, every_cell
from scripts.gpu.real import Real
from scripts.gpu.table import table

CELLS = every_cell()
QUICK = ["G10 loss", "G11 linear", "G1 8B bf16 lorafit 1", "G3 8B nf4 trainer 1", "G6 24 GB", "G7 70B nf4 1x2048"]


def test_the_matrix_is_large_and_no_name_is_used_twice() -> None:
    kinds = Counter(cell.kind for cell in CELLS)
    assert kinds["memory"] >= 40
    assert len({cell.name for cell in CELLS}) == len(CELLS)


@pytest.mark.parametrize("name", QUICK)
def test_a_cell_runs_at_a_toys_size(name: str) -> None:
    check(next(cell for cell in CELLS if cell.name == name))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 81 models
def test_every_cell_runs_at_a_toys_size() -> None:
    done = {}
    for cell in CELLS:
        if cell.contender != "trl":  # not a package that tests need
            done[cell.name] = check(cell) | {"device": "cpu", "torch": torch.__version__}
    page = table(CELLS, done)
    assert page.count("\n| ") > len(done)


def check(cell: Cell) -> dict[str, object]:
    facts = measure(cell, "cpu", tiny=True)
    wanted = {
        "memory": "estimated_bytes", "speed": "tokens_per_second", "row": "longest_row",
        "loss": "times_the_products", "linear": "times_the_products",
    }  # fmt: skip
    assert facts[wanted[cell.kind]] > 0, cell.name
    return facts


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_random_model_has_the_shape_that_is_estimated(quantization: str) -> None:
    work = Real.make(tiny=True, device="cpu", quantization=quantization, model_name="Qwen/Qwen2.5-7B", full_rows=2048)
    model = random_model(work.shape, work.bits, torch.device("cpu"), torch.float32)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert Attached(model, ["all"]).model_parameters == work.question.total_parameters


def test_both_sides_have_the_same_model_and_loss() -> None:
    work = Real.make(tiny=True, device="cpu", full_rows=2048)
    one, other = work.model(), work.model()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.slow
def test_the_driver_goes_on_where_it_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.gpu", "G11", "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1 of 1 cells are measured" in done.stdout
    assert "times_the_products" not in done.stdout  # the second call found it done
    assert list(read(tmp_path / "tiny.jsonl")) == ["G11 linear"]
    assert "| G11 linear |" in (tmp_path / "tiny.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_without_a_card_it_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    main()
    assert str(no_card()).startswith("torch")
    assert capsys.readouterr().out == f"nothing to measure: {no_card()}\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["G1", "G99"], "no cell has 'G99' in its name; there are\n  G10 loss"),
        (["G11", "--budget", "60"], "--budget 60: no cell is begun with 60 seconds left or fewer"),
    ],
)
def test_what_measures_nothing_is_refused(
    words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", *words, "--device", "cpu", "--tiny", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(why)
    assert not list(tmp_path.iterdir())
