"""What a classifier is worth, from the classes it gives to rows of known classes; and the class of a text."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Confusion = NDArray[np.int64]  # [gold class, given class]


@dataclass(frozen=True)
class Guess:
    """The class that a text was given, with the probability that the model puts on it."""

    label: str
    probability: float


def confusion(given: NDArray[np.int64], gold: NDArray[np.int64], classes: int) -> Confusion:
    """Count rows by their class and by the class they were given: [classes, classes]."""
    counts = np.bincount(gold * classes + given, minlength=classes * classes)
    matrix: Confusion = counts.reshape(classes, classes)
    return matrix


def accuracy(matrix: Confusion) -> float:
    """Share of the rows that were given their own class."""
    return float(np.trace(matrix) / matrix.sum())


def macro_f1(matrix: Confusion) -> float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN); a class that no row has and none was given is left out."""
    hits = np.diagonal(matrix)
    named = matrix.sum(axis=0) + matrix.sum(axis=1)
    there = named > 0
    return float((2 * hits[there] / named[there]).mean())


def matthews(matrix: Confusion) -> float:
    """Correlation of gold and given classes, R_K of Gorodkin 2004: 1 for all right, 0 for chance, 0 where undefined."""
    rows, right = int(matrix.sum()), int(np.trace(matrix))
    gold, given = matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist()  # Python's integers do not overflow
    covariance = right * rows - sum(a * b for a, b in zip(gold, given, strict=True))
    spread = (rows**2 - sum(b * b for b in given)) * (rows**2 - sum(a * a for a in gold))
    return covariance / math.sqrt(spread) if spread else 0.0


def majority(matrix: Confusion) -> float:
    """Share of the most frequent class: the accuracy of always giving that one."""
    return float(matrix.sum(axis=1).max() / matrix.sum())


CLASS_METRICS: "Mapping[str, Callable[[Confusion], float]]" = {
    "accuracy": accuracy,
    "f1": macro_f1,
    "matthews": matthews,
}
