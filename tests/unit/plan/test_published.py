"""The note on published measurements: every program has its rows, and what is known in full is close."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lorafit.plan.memory import CONTEXT_BYTES, estimate
from scripts.vram_accuracy import compared
from scripts.vram_programs import PROGRAMS, QWEN, question_for
from scripts.vram_published import (
    LETTERS,
    OFF,
    STATES,
    Row,
    answers,
    by_own_code,
    by_rule,
    on_card,
    report,
    with_constant,
)
from scripts.vram_reasons import BUCKET, Case, is_run, traces, zero_two

SHARED = Path(os.environ.get("LORAFIT_SHARED", Path(__file__).parents[3].with_name("shared")))
MEASURED = SHARED / "data/vram/measured.csv"
NOTE = Path(__file__).parents[3] / "benchmarks/2026-11-30-vram-published.md"
pytestmark = pytest.mark.skipif(not MEASURED.exists(), reason="no measurements beside the checkout: set LORAFIT_SHARED")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with MEASURED.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def answered(rows: list[dict[str, str]]) -> dict[str, list[Row]]:
    return answers(rows)


def _all(answered: dict[str, list[Row]]) -> Iterator[Row]:
    for found in answered.values():
        yield from found


def test_what_is_far_off_has_a_checked_reason_a_bound_or_neither(answered: dict[str, list[Row]]) -> None:
    assert len(answered) == len(PROGRAMS)
    for row in _all(answered):
        assert bool(row.verdict) is (abs(row.error) > OFF)
        assert abs(row.rest) <= max(abs(row.error), OFF)
        assert (row.state == "explained") is (abs(row.error) > OFF >= abs(row.rest))
        assert row.state != "explained" or (row.told and not row.bound)
        assert (row.state == "bounded") is ("bounded: " in row.verdict)


def test_every_reason_and_every_bound_helps_somewhere(answered: dict[str, list[Row]]) -> None:
    for program in PROGRAMS:
        told = {each[0] for row in answered[program.name] for each in row.told}
        assert told == set(LETTERS[: len(program.reasons)]), program.name
        assert not program.bounds or any(row.bound for row in answered[program.name]), program.name


def test_every_reason_says_where_it_is_read() -> None:
    """A commit, a wheel, or a setting in the row's own configuration; never a bare claim."""
    for program in PROGRAMS:
        for each in [*program.reasons, *program.bounds]:
            assert len(each.source) > 10, each.text
            assert "http" not in each.source, each.text


def test_the_note_counts_what_the_reasons_leave(answered: dict[str, list[Row]]) -> None:
    """But for a row or two, which a change of the model may bring over the tenth: then it is to be written anew."""
    states = Counter(row.state for row in _all(answered))
    told = re.search(r"^\| all \| (.+) \|$", NOTE.read_text(encoding="utf-8"), re.MULTILINE)
    assert told
    noted, *counts = (int(cell) for cell in told[1].split(" | "))
    assert noted == sum(counts)
    found = [states[""], *(states[state] for state in STATES)]
    assert all(abs(count - now) <= 2 for count, now in zip(counts, found, strict=True)), (counts, found)


def test_both_workspaces_and_one_table_of_positions_for_all_rows_are_what_one_card_showed(
    rows: list[dict[str, str]],
) -> None:
    """Without the second workspace all are 9 MB short; with a table for each row, four rows differ from eight by 8."""
    short = {run.run: run.measured_bytes - run.estimated_bytes for run in compared(rows) if run.gpus == 1}
    mistral = [size for name, size in short.items() if "Mistral" in name]
    assert len(mistral) == 8
    assert max(map(abs, mistral)) < 1e6  # as far as the figures are told
    assert max(map(abs, short.values())) < 11e6


def test_litgpts_own_code_is_within_two_percent_but_for_the_row_that_the_note_names() -> None:
    *close, falcon = sorted(by_own_code(), key=abs)
    assert len(close) > 40
    assert abs(close[-1]) < 0.016 < falcon


def test_what_is_kept_longer_is_never_less() -> None:
    names = ("own code", "inputs until the backward", "inputs until the next pass")
    kept = [[found[name] for name in names] for found in traces("litgpt").values() if names[1] in found]
    assert kept
    assert all(sizes == sorted(sizes) for sizes in kept)


def test_rows_of_many_lengths_reserve_more_than_rows_of_the_longest() -> None:
    """In most draws: a short one need not hold a row as long as the limit."""
    runs = [found for found in traces("swift").values() if "draws" in found]
    more = [found["draws"][-1] > found["one length"] for found in runs]
    assert sum(more) > 0.8 * len(runs) > 0


def test_zero_on_one_card_holds_22_bytes_of_a_value_however_short_rows_are(rows: list[dict[str, str]]) -> None:
    """16-bit weights and gradients, masters and two states in float32, gradients flat in 16 bits and in float32."""
    row = next(
        row for row in rows if row["source"].startswith("QwenLM") and is_run("full")(row) and row["gpus"][0] == "1"
    )
    question = question_for(row, QWEN)
    assert question
    found = [zero_two(Case(row, replace(question, max_length=length))).bytes for length in (16, 64)]
    least = 22 * estimate(question).trainable_parameters + 4 * BUCKET + CONTEXT_BYTES
    assert all(least <= size < 1.02 * least for size in found)


def test_one_constant_brings_most_of_an_environment_within_a_tenth(rows: list[dict[str, str]]) -> None:
    for found in on_card(rows, by_rule).values():
        constant, shifted = with_constant(found)
        assert 0 < constant < 4 * 2**30
        assert sum(abs(row.error) < 0.10 for row in shifted) >= len(shifted) - 1


def test_the_note_has_a_line_for_each(rows: list[dict[str, str]], answered: dict[str, list[Row]]) -> None:
    text = report(rows, answered, by_rule)
    assert all(f"| {program.name} |" in text for program in PROGRAMS)
