"""The validation loss of a model in training: token-weighted, over all processes."""

import numpy as np
import torch

from lorafit.data.batch import flat_batch
from lorafit.data.packing import Packs
from lorafit.data.token_rows import TokenRows
from lorafit.model.batch import to_device
from lorafit.model.loss import summed_loss
from lorafit.train.loop import Loop, share


@torch.no_grad()
def validation_loss(loop: Loop, rows: TokenRows, packs: Packs) -> float:
    """Give the nats per target token over the whole validation set."""
    loop.model.eval()
    everything = np.arange(len(packs))
    total = torch.zeros((), device=loop.ranks.device, dtype=torch.float64)
    mine = share(everything, loop.ranks.rank, loop.ranks.count)
    for start in range(0, len(mine), loop.micro_batch_size):
        batch = flat_batch(rows, packs, mine[start : start + loop.micro_batch_size])
        with loop.precision:
            total += summed_loss(loop.model, to_device(batch, loop.ranks.device))
    return float(loop.ranks.sum(total).item()) / int(rows.row_targets.sum())
