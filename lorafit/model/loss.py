"""The loss: cross-entropy summed over target tokens, with logits for those tokens only."""

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from lorafit.model.batch import DeviceBatch


def summed_loss(model: PreTrainedModel, batch: DeviceBatch) -> torch.Tensor:
    """Sum the negative log-likelihood of the targets, in nats and float32.

    The model's own forward makes the logits [1, T, vocab], so soft caps, scales and an adapter on the head
    are honoured; positions that predict nothing never reach the head. The caller divides by the number of
    target tokens of the global batch, once.
    """
    return cross_entropy(target_logits(model, batch).float(), batch.targets, reduction="sum")


def target_logits(model: PreTrainedModel, batch: DeviceBatch) -> torch.Tensor:
    """Give the logits [T, vocab] of the positions that predict a target."""
    outputs = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,
        logits_to_keep=batch.predicting,
        cu_seq_lens_q=batch.boundaries,
        cu_seq_lens_k=batch.boundaries,
        max_length_q=batch.longest,
        max_length_k=batch.longest,
    )
    logits: torch.Tensor = outputs.logits[0]
    return logits
