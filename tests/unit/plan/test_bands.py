"""Low and high bytes: they come of observed errors, and hold what they say they hold."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.plan.bands import band, mode
from lorafit.plan.cards import find_card
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_by_name
from lorafit.plan.stack import Stack
from lorafit.plan.units import signed_percent
from lorafit.plan.vram import Answer, answer
from lorafit.plan.workspace import workspace_bytes
from lorafit.recipe.adapters import Lora
from lorafit.recipe.quantization import Int8, Nf4
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.measured import own_truths
from scripts.vram_accuracy import Compared
from scripts.vram_bands import SHARE, bands, interval, truth

ASKED = MemoryQuestion(shape_by_name("llama-3-8b").shape, Lora(), Nf4())


@given(st.lists(st.floats(-0.2, 0.2), min_size=40, max_size=200))
def test_an_interval_holds_its_share(truths: list[float]) -> None:
    below, above = interval(truths, SHARE)
    inside = sum(-below <= each <= above for each in truths)
    assert inside >= SHARE * len(truths) - 1
    assert below >= 0 <= above


def test_few_are_held_all() -> None:
    truths = [-0.03, 0.01, 0.02]
    assert interval(truths, SHARE) == (0.03, 0.02)


def test_nothing_has_no_sign() -> None:
    said = [signed_percent(share) for share in (-0.0004, 0.0, 0.0004, -0.0006, 0.0006, 1.5)]
    assert said == ["0.0 %", "0.0 %", "0.0 %", "-0.1 %", "+0.1 %", "+150.0 %"]


def test_a_truth_undoes_an_error() -> None:
    estimated, true = 103, 100
    assert estimated * (1 + truth(estimated / true - 1)) == pytest.approx(true)


def test_the_table_has_the_kinds_that_were_observed() -> None:
    made = json.loads((Path(__file__).parents[3] / "lorafit/plan/bands.json").read_text())
    assert {"lorafit, dense", "transformers"} <= set(made["modes"])
    assert made["modes"]["lorafit, dense"]["count"] >= 100
    for row in [*made["modes"].values(), made["cards"]]:
        assert 0 <= row["below"] < made["unobserved"][0]
        assert 0 <= row["above"] < made["unobserved"][1]


def test_a_kind_is_observed_often_or_not_at_all() -> None:
    made = bands({}, [], [Compared("run", 100, 102, "loss"), Compared("run", 100, 99, "loss")])
    assert set(made["modes"]) == {"transformers"}
    assert made["modes"]["transformers"]["below"] == pytest.approx(0.0196, abs=1e-4)
    kept = bands({"lorafit, dense": {"count": 3}}, [], [Compared("run", 100, 102, "loss")])
    assert kept["modes"]["lorafit, dense"] == {"count": 3}


def test_what_was_not_observed_has_the_widest_band() -> None:
    unknown = replace(ASKED, gpus=2, sharded=True)
    assert mode(unknown) == "lorafit, split base"
    assert "is a guess" in band(unknown).said
    assert {mode(replace(ASKED, quantization=Int8())), mode(replace(ASKED, classes=3))} == {
        "lorafit, int8",
        "lorafit, classifier",
    }
    for known in (ASKED, replace(ASKED, stack=Stack(kernel="flash_attention_2"))):
        assert "is a guess" not in band(known).said
        assert band(known).below < band(unknown).below
        assert band(known).above < band(unknown).above


def test_a_band_lies_around_the_peak() -> None:
    found, asked = estimate(ASKED), band(ASKED)
    assert (found.low_bytes, found.high_bytes) == asked.around(found.peak_bytes)
    assert found.low_bytes <= found.peak_bytes < found.high_bytes
    assert asked.around(0) == (0, 0)


def test_what_the_card_takes_for_products_is_counted_and_no_part_of_the_band() -> None:
    """A tiny model's peak is mostly that: two workspaces, and on Hopper four times as large."""
    usual, wide = (replace(ASKED, workspace_bytes=find_card(gpu).workspace_bytes) for gpu in ("a100", "h200"))
    found, larger = estimate(usual), estimate(wide)
    assert (usual.workspace_bytes, wide.workspace_bytes) == (2 * 8_519_680, 64 * 2**20)
    assert larger.peak_bytes - found.peak_bytes == wide.workspace_bytes - usual.workspace_bytes
    assert answer_of(gpu="h200").question.workspace_bytes == wide.workspace_bytes
    assert (
        answer_of().question.workspace_bytes == answer_of(gpu="80GB").question.workspace_bytes == ASKED.workspace_bytes
    )
    tiny = answer_of(model="builtin:tiny").estimate
    assert tiny.high_bytes - tiny.low_bytes < 0.02 * tiny.peak_bytes
    assert [workspace_bytes(major) for major in (8, 9, 10, 12)] == [17_039_360, *3 * [64 * 2**20]]


def answer_of(model: str = "llama-3-8b", gpu: str | None = None) -> Answer:
    asked = {"method": "dora", "rank": None, "target_modules": None, "max_length": None, "micro_batch_size": None}
    return answer(None, model=model, gpus=1, gpu=gpu, **asked)  # type: ignore[arg-type]


def test_own_runs_widen_it_and_never_narrow_it(tmp_path: Path) -> None:
    nonsense = (-1, float("nan"), 10**400, -1 + 1e-16)
    for name, difference in (("a", 0.02), ("b", -0.05), ("c", None), *zip("defg", nonsense, strict=True)):
        report = RunFolder(tmp_path / name).memory_report
        report.parent.mkdir(parents=True)
        report.write_text(json.dumps({"difference": difference}))
    (tmp_path / "no run").mkdir()
    pipe = RunFolder(tmp_path / "pipe").memory_report
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    (tmp_path / "a file").write_text("")
    truths = own_truths(tmp_path)
    assert truths == [pytest.approx(1 / 1.02 - 1), pytest.approx(1 / 0.95 - 1)]
    widened = band(ASKED).with_own(truths)
    assert widened.above == pytest.approx(1 / 0.95 - 1)
    assert widened.below == pytest.approx(1 - 1 / 1.02)
    assert "your own 2 measured runs: -2.0 % to +5.3 %" in widened.said
    assert band(ASKED).with_own([0.0]).below == band(ASKED).below
    assert own_truths(tmp_path / "nowhere") == []
