"""Packs as one flat sequence: what a forward pass takes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorafit.data.packing import Packs
from lorafit.data.token_rows import TokenRows, offsets

IGNORED = -100  # the label of a token that is not trained


@dataclass(frozen=True)
class FlatBatch:
    """Documents laid end to end. A label stands at its own token, and is compared with the logits before it."""

    input_ids: NDArray[np.int64]  # [S]
    position_ids: NDArray[np.int64]  # [S], from 0 in each document
    labels: NDArray[np.int64]  # [S], -100 where nothing is trained and at the start of each document
    lengths: list[int]  # of the documents; their sum is S
    classes: NDArray[np.int64] | None = None  # [documents]: the class of each, under a head

    @property
    def target_tokens(self) -> int:
        """Give how many targets the loss counts: tokens, or the class of each document."""
        if self.classes is not None:
            return len(self.classes)
        return int((self.labels != IGNORED).sum())


def flat_batch(rows: TokenRows, packs: Packs, indices: NDArray[np.int64]) -> FlatBatch:
    """Lay the documents of some packs end to end."""
    chosen = packs.rows_of(indices)
    lengths = rows.lengths[chosen]
    found, trained = rows.laid_out(chosen)
    tokens = found.astype(np.int64)
    labels = np.where(trained, tokens, IGNORED)
    starts = offsets(lengths)[:-1]
    labels[starts] = IGNORED
    positions = np.arange(len(tokens), dtype=np.int64) - np.repeat(starts, lengths)
    classes = None if rows.classes is None else rows.classes[chosen].astype(np.int64)
    return FlatBatch(tokens, positions, labels, lengths.tolist(), classes)
