"""A 4-bit base packed beside one kept unpacked: the same steps in turns, in one process. A ratio, not times.

python -m scripts.bench.unpacked
"""

import statistics
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lorafit.data.packing import unpacked
from lorafit.model.unpacked import keep_unpacked
from lorafit.train.loop import Loop
from lorafit.train.ranks import Ranks
from lorafit.train.run import adapt, make_loop
from scripts.bench.work import WORKS, Work

STEPS, WARMUP = 7, 2
C5 = WORKS["C5"]
CASES = {
    "C5": C5,
    "C5, one row a pass": replace(C5, micro_rows=1),
    "1,024 hidden units, one row a pass": replace(C5, hidden=1024, layers=2, micro_rows=1, batch_rows=2),
}


def prepared(work: Work, layers: int) -> Loop:
    """Give a loop on a base of which so many layers are unpacked."""
    recipe, rows = work.recipe(STEPS + 1), work.rows()
    data: Any = SimpleNamespace(train=rows, train_packs=unpacked(np.arange(len(rows))))
    base = work.own_base(recipe)
    keep_unpacked(base.model, layers)
    return make_loop(recipe, adapt(recipe, base), data, work.sizes(recipe), Ranks(), base)


def ratio(work: Work) -> float:
    """Give how many times the tokens a second, by processor time. The losses must be the same."""
    loops, seconds = [prepared(work, 0), prepared(work, work.layers)], np.empty((STEPS, 2))
    for step in range(STEPS):
        losses = []
        for side, loop in enumerate(loops):
            started = time.process_time()
            losses.append(loop.step(step).record().loss)
            seconds[step, side] = time.process_time() - started
        assert losses[0] == losses[1]
    for loop in loops:
        loop.close()
    packed, kept = (statistics.median(side) for side in seconds[WARMUP:].T)
    return float(packed / kept)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, work in CASES.items():
        print(f"{name}: {ratio(work):.2f} x")
