"""Sources in proportion: a weight repeats the rows of one, or takes a share of them."""

import numpy as np
from numpy.typing import NDArray

from lorafit.data.order import shuffled


def weighted(rows: NDArray[np.int64], weight: float, seed: int, source: int) -> NDArray[np.int64]:
    """Give each row as often as the weight says: 2 twice, 0.5 every other, 1.5 once and half of them again.

    Which rows make up the broken part is drawn from the seed; at least one row stays.
    """
    whole, part = divmod(weight, 1.0)
    extra = round(part * len(rows))
    if whole == 0:
        extra = max(1, extra)
    drawn = shuffled(len(rows), "weight", seed, source)[:extra]
    return np.sort(np.concatenate([np.tile(rows, int(whole)), rows[drawn]]))
