"""The rows to validate on: taken from the training rows by their content, or checked against them."""

import math

import numpy as np
from numpy.typing import NDArray

from lorafit.data.order import shuffled
from lorafit.data.token_rows import TokenRows
from lorafit.errors import DataError

SHOWN = 5


def duplicates(hashes: NDArray[np.uint64]) -> int:
    """Count the rows that an earlier row already says, word for word."""
    return int(np.count_nonzero(np.diff(np.sort(hashes)) == 0))  # a tenth of the time of np.unique


def split(hashes: NDArray[np.uint64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide rows into those to train on and those held out; give the numbers of both, ascending.

    Equal rows stay together, so that none is on both sides. Raises DataError when there are too few rows
    that differ.
    """
    different, group = np.unique(hashes, return_inverse=True)
    if len(different) < 2:
        raise DataError(
            f"{len(hashes)} rows, of which {len(different)} differ, cannot be split",
            where="data.validation.fraction",
            fix="add rows, or leave validation out",
            code="E3-TOO-FEW",
        )
    wanted = min(len(different) - 1, max(1, math.ceil(fraction * len(different))))
    chosen = np.zeros(len(different), dtype=np.bool_)
    chosen[shuffled(len(different), "validation", seed)[:wanted]] = True
    held_out = chosen[group]
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def overlap(train: TokenRows, validation: TokenRows) -> int:
    """Count the rows to validate on that are also trained on."""
    return int(np.isin(validation.hashes(), train.hashes()).sum())


def check_leaks(train: TokenRows, validation: TokenRows) -> None:
    """Refuse rows that are trained on and validated on; DataError lists the first of them."""
    trained, validated = train.hashes(), validation.hashes()
    leaked = np.flatnonzero(np.isin(validated, trained))
    if not len(leaked):
        return
    order = np.argsort(trained, kind="stable")
    twins = order[np.searchsorted(trained[order], validated[leaked[:SHOWN]])]
    pairs = zip(leaked[:SHOWN].tolist(), twins.tolist(), strict=True)
    shown = "; ".join(f"{validation.place(row)} is {train.place(twin)}" for row, twin in pairs)
    raise DataError(
        f"{len(leaked):,} of {len(validation):,} rows to validate on are also trained on ({shown})",
        where="data.validation",
        fix="take them out of one of the two, or use validation.fraction, which keeps equal rows together",
        code="E3-LEAK",
    )
