"""Splitting, mixing, cutting and accounting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import token_rows

from lorafit.data.faults import BadRow, grouped
from lorafit.data.held_out import check_leaks, duplicates, split
from lorafit.data.lengths import Overlong
from lorafit.data.mixing import weighted
from lorafit.data.report import Counts, fingerprint
from lorafit.data.tokens import Encoded
from lorafit.errors import DataError


@given(st.lists(st.integers(0, 20), min_size=2, max_size=60), st.floats(0.01, 0.99), st.integers(0, 9))
def test_a_split_keeps_equal_rows_together(values: list[int], fraction: float, seed: int) -> None:
    hashes = np.array(values, dtype=np.uint64)
    if len(set(values)) < 2:
        with pytest.raises(DataError, match="cannot be split"):
            split(hashes, fraction, seed)
        return
    train, held_out = split(hashes, fraction, seed)
    assert sorted([*train, *held_out]) == list(range(len(values)))
    assert len(train)
    assert len(held_out)
    assert not set(hashes[train].tolist()) & set(hashes[held_out].tolist())
    different = len(set(values))
    assert len(set(hashes[held_out].tolist())) == min(different - 1, int(np.ceil(fraction * different)))


def test_a_split_does_not_depend_on_the_order_of_the_rows() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 100).astype(np.uint64)
    order = np.random.default_rng(1).permutation(100)
    _, held_out = split(hashes, 0.2, 5)
    _, shuffled = split(hashes[order], 0.2, 5)
    assert set(hashes[held_out].tolist()) == set(hashes[order][shuffled].tolist())
    assert set(split(hashes, 0.2, 6)[1].tolist()) != set(held_out.tolist())


def test_leaks_are_listed() -> None:
    train = token_rows([[1, 2], [3, 4], [5, 6]], file="train.jsonl")
    check_leaks(train, token_rows([[1, 3]], file="held.jsonl"))
    with pytest.raises(DataError) as caught:
        check_leaks(train, token_rows([[7, 8], [5, 6], [1, 2]], file="held.jsonl"))
    assert "2 of 3 rows" in str(caught.value)
    assert "held.jsonl:2 is train.jsonl:3; held.jsonl:3 is train.jsonl:1" in str(caught.value)


def test_duplicates() -> None:
    assert duplicates(np.array([3, 3, 4, 3], dtype=np.uint64)) == 2


@given(st.integers(1, 40), st.floats(0.01, 4), st.integers(0, 3))
def test_weights(count: int, weight: float, seed: int) -> None:
    rows = np.arange(count, dtype=np.int64) * 3
    mixed = weighted(rows, weight, seed, 0)
    times = np.bincount(mixed // 3, minlength=count)
    assert set(mixed.tolist()) <= set(rows.tolist())
    assert set(times.tolist()) <= {int(weight), int(weight) + 1}
    assert len(mixed) == max(1, int(weight) * count + round((weight % 1) * count))
    assert mixed.tolist() == weighted(rows, weight, seed, 0).tolist()


def encoded(length: int, prompt: int) -> Encoded:
    return Encoded(np.arange(length, dtype=np.int32), np.arange(length) >= prompt)


def test_overlong_rows_are_an_error_by_default() -> None:
    overlong = Overlong(10, "error")
    for number, length in enumerate([10, 11, 30], 1):
        overlong.fit(encoded(length, 3), f"rows:{number}")
    (fault,) = overlong.fault("rows", 3)
    assert "2 of 3 rows (67%)" in fault.what
    assert "longest has 30 tokens" in fault.what
    assert "rows:2, rows:3" in fault.what


@pytest.mark.parametrize(
    ("length", "prompt", "kept", "unfinished"),
    [(10, 3, 10, False), (11, 3, 10, True), (11, 9, 10, True), (11, 10, None, False), (12, 11, None, False)],
)
def test_truncation_leaves_a_target_or_drops_the_row(
    length: int, prompt: int, kept: int | None, unfinished: bool
) -> None:
    overlong = Overlong(10, "truncate")
    row, cut = overlong.fit(encoded(length, prompt), "rows:1")
    assert (None if row is None else len(row.tokens)) == kept
    assert cut is unfinished
    assert (overlong.truncated, overlong.dropped) == (int(unfinished), int(kept is None))
    assert row is None or row.trained[1:].any()


def test_dropping() -> None:
    overlong = Overlong(10, "drop")
    assert overlong.fit(encoded(11, 1), "rows:1") == (None, False)
    assert (overlong.dropped, overlong.fault("rows", 1)) == (1, [])


def test_counts_add_up() -> None:
    assert Counts(5, 3, 1, 1, 1) + Counts(read=2, kept=2) == Counts(7, 5, 1, 1, 1)


def test_bad_rows_are_shown_by_kind() -> None:
    rows = [BadRow(f"d/rows:{n}", "is null", "E3-ROW-NULL") for n in range(7)]
    rows.insert(1, BadRow("d/rows:9", "is a number", "E3-ROW-TYPE", "3"))
    null, number = grouped(rows, "mend it")
    assert str(null) == (
        "d/rows:0: is null (7 such rows; first 5: rows:0, rows:1, rows:2, rows:3, rows:4); mend it  [E3-ROW-NULL]"
    )
    assert str(number) == "d/rows:9: is a number (3); mend it  [E3-ROW-TYPE]"


def test_fingerprints() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
