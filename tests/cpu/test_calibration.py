"""The estimate beside the measured peak: compared on a card, only noted on a CPU."""

from pathlib import Path

import pytest
import torch

from lorafit.model.memory import measured_peaks
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_by_name
from lorafit.recipe.adapters import Lora
from lorafit.recipe.quantization import Nf4
from lorafit.rundir.layout import RunFolder
from lorafit.train.calibration import as_text, compare, record_memory
from lorafit.train.record import Record

EXPECTED = estimate(MemoryQuestion(shape_by_name("llama-3.1-8b").shape, Lora(), Nf4()))


def test_on_a_card_the_error_is_said() -> None:
    allocated = round(EXPECTED.peak_bytes / 1.03)
    measured = {"allocated_bytes": allocated, "reserved_bytes": allocated + 2**30, "on_card_bytes": allocated + 2**31}
    facts = compare(EXPECTED, measured)
    assert facts["difference"] == pytest.approx(0.03)
    assert "the estimate was +3.0 %;" in as_text(facts)


def test_what_is_not_known_is_not_compared() -> None:
    for expected, measured in ((EXPECTED, {"resident_bytes": 2**30}), (None, {"allocated_bytes": 2**30})):
        facts = compare(expected, measured)
        assert facts["difference"] is None
        assert as_text(facts) == ""


def test_another_process_than_the_first_writes_nothing(tmp_path: Path) -> None:
    record_memory(Record(RunFolder(tmp_path), None), EXPECTED, torch.device("cpu"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_a_card_holds_more_than_it_reserved_and_that_more_than_it_allocated() -> None:
    kept = torch.zeros(2**24, device="cuda")
    found = measured_peaks(kept.device)
    assert kept.nbytes <= found["allocated_bytes"] <= found["reserved_bytes"] < found["on_card_bytes"]
