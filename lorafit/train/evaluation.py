"""The validation loss of a model in training: token-weighted, over all processes."""

import numpy as np
import torch

from lorafit.data.batch import flat_batch
from lorafit.data.packing import Packs
from lorafit.data.token_rows import TokenRows
from lorafit.model.batch import to_device
from lorafit.model.loss import summed_loss
from lorafit.train.loop import Loop


@torch.no_grad()
def validation_loss(loop: Loop, rows: TokenRows, packs: Packs) -> float:
    """Give the nats per target token over the whole validation set."""
    loop.model.eval()
    everything = np.arange(len(packs))
    total = torch.zeros((), device=loop.ranks.device, dtype=torch.float64)
    for mine, counts in loop.passes(everything):
        batch = flat_batch(rows, packs, mine)
        with loop.precision:
            total += summed_loss(loop.model, to_device(batch, loop.ranks.device)) * counts
    loop.model.train()
    return float(loop.ranks.sum(total).item()) / int(rows.row_targets.sum())
