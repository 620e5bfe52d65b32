"""Metrics of classes: against their definitions, row by row, and properties that must hold for any table."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lorafit.evaluate.classes import accuracy, confusion, macro_f1, majority, matthews

CLASSES = 4
Pairs = list[tuple[int, int]]
pairs = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=40)


def table(rows: Pairs, classes: int = CLASSES) -> NDArray[np.int64]:
    gold, given_ = (np.array(column) for column in zip(*rows, strict=True))
    return confusion(given_, gold, classes)


def f1_by_counting(rows: Pairs) -> float:
    """Mean over the classes that are there or were given, each from its precision and recall."""
    scores = []
    for kind in {kind for row in rows for kind in row}:
        hits = sum(row == (kind, kind) for row in rows)
        given_, there = sum(given_ == kind for _, given_ in rows), sum(gold == kind for gold, _ in rows)
        precision, recall = hits / given_ if given_ else 0, hits / there if there else 0
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return math.fsum(scores) / len(scores)


def correlation(rows: Pairs) -> float:
    """R_K as Gorodkin wrote it: the covariance of one-hot gold and given classes over their spreads."""
    gold, given_ = (np.eye(CLASSES)[list(column)] for column in zip(*rows, strict=True))
    gold, given_ = gold - gold.mean(axis=0), given_ - given_.mean(axis=0)
    spread = math.sqrt((gold * gold).sum() * (given_ * given_).sum())
    return float((gold * given_).sum()) / spread if spread > 1e-9 else 0.0


@given(pairs)
def test_they_are_what_their_definitions_say(rows: Pairs) -> None:
    assert accuracy(table(rows)) == pytest.approx(sum(a == b for a, b in rows) / len(rows))
    assert macro_f1(table(rows)) == pytest.approx(f1_by_counting(rows))
    assert matthews(table(rows)) == pytest.approx(correlation(rows), abs=1e-9)


@given(pairs, st.permutations(range(CLASSES)))
def test_the_names_of_the_classes_do_not_matter(rows: Pairs, names: list[int]) -> None:
    renamed = [(names[gold], names[given_]) for gold, given_ in rows]
    for metric in (accuracy, macro_f1, matthews, majority):
        assert metric(table(renamed)) == pytest.approx(metric(table(rows)))


@given(pairs)
def test_two_classes_give_the_usual_coefficient(rows: Pairs) -> None:
    rows = [(gold % 2, given_ % 2) for gold, given_ in rows]
    (tn, fp), (fn, tp) = table(rows, 2).tolist()
    spread = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert matthews(table(rows, 2)) == pytest.approx((tp * tn - fp * fn) / spread if spread else 0.0)


def test_the_ends_of_the_scale() -> None:
    right = [(0, 0), (1, 1), (2, 2), (2, 2)]
    assert (accuracy(table(right)), macro_f1(table(right)), matthews(table(right))) == (1.0, 1.0, 1.0)
    always_two = [(gold, 2) for gold, _ in right]
    assert matthews(table(always_two)) == 0.0
    assert accuracy(table(always_two)) == majority(table(always_two)) == 0.5
    many = np.full((150, 150), 10**7)  # no integer overflows
    assert matthews(many) == pytest.approx(0.0)
