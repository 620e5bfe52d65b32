"""The note on published measurements: every program has its rows, and what is known in full is close."""

import csv
import os
from pathlib import Path

import pytest

from scripts.vram_programs import PROGRAMS
from scripts.vram_published import OFF, by_rule, on_card, others, report, with_constant

SHARED = Path(os.environ.get("LORAFIT_SHARED", Path(__file__).parents[3].with_name("shared")))
MEASURED = SHARED / "data/vram/measured.csv"
pytestmark = pytest.mark.skipif(not MEASURED.exists(), reason="no measurements beside the checkout: set LORAFIT_SHARED")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with MEASURED.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_what_is_far_off_has_a_checked_reason_or_is_called_unexplained(rows: list[dict[str, str]]) -> None:
    for program in PROGRAMS:
        found = others(rows, program)
        assert found, program.name
        for row in found:
            assert bool(row.verdict) is (abs(row.error) > OFF)
            assert ("unexplained" in row.verdict) is (abs(row.error) > OFF and abs(row.rest) > OFF)
            assert abs(row.rest) <= max(abs(row.error), OFF)


def test_every_reason_helps_somewhere(rows: list[dict[str, str]]) -> None:
    for program in PROGRAMS:
        told = "; ".join(row.verdict for row in others(rows, program))
        assert all(reason.text in told for reason in program.reasons), program.name


def test_one_constant_brings_most_of_an_environment_within_a_tenth(rows: list[dict[str, str]]) -> None:
    for found in on_card(rows, by_rule).values():
        constant, shifted = with_constant(found)
        assert 0 < constant < 4 * 2**30
        assert sum(abs(row.error) < 0.10 for row in shifted) >= len(shifted) - 1


def test_the_note_has_a_line_for_each(rows: list[dict[str, str]]) -> None:
    text = report(rows, by_rule)
    assert all(f"| {program.name} |" in text for program in PROGRAMS)
