"""The loss: cross-entropy summed over target tokens, with logits for those tokens only."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from lorafit.model.adapt import base_of
from lorafit.model.batch import DeviceBatch
from lorafit.model.classify import class_logits, is_classifier
from lorafit.model.head_loss import frozen_head, head_loss
from lorafit.model.sharding import gathered


def summed_loss(model: PreTrainedModel, batch: DeviceBatch) -> torch.Tensor:
    """Sum the negative log-likelihood of the targets (next tokens, or classes), in nats and float32.

    Under a frozen head that is all there is to the logits, they are made a chunk at a time; else the model's own
    forward makes them, [1, T, vocab], so that soft caps, scales and an adapter on the head are honoured. Positions
    that predict nothing never reach the head. The caller divides by the number of target tokens of the global
    batch, once.
    """
    base = base_of(model)
    if is_classifier(base):
        return cross_entropy(document_logits(model, batch), batch.targets, reduction="sum")
    head = frozen_head(base)
    if head is not None:
        states = target_states(base, batch)[0]
        with gathered(head):
            return head_loss(states, head, batch.targets)
    return cross_entropy(target_logits(model, batch).float(), batch.targets, reduction="sum")


def document_logits(model: PreTrainedModel, batch: DeviceBatch) -> torch.Tensor:
    """Give a classifier's logits, float32 [documents, classes], read at the last token of each document."""
    base = base_of(model)
    return class_logits(base, target_states(base, batch)[0])


def target_logits(model: PreTrainedModel, batch: DeviceBatch) -> torch.Tensor:
    """Give the logits [T, vocab] of the positions that predict a target."""
    logits: torch.Tensor = model(**_inputs(batch), logits_to_keep=batch.predicting).logits[0]
    return logits


def target_states(base: PreTrainedModel, batch: DeviceBatch) -> torch.Tensor:
    """Give the last hidden states [1, T, hidden] of the positions that predict a target."""
    states: torch.Tensor = base.base_model(**_inputs(batch)).last_hidden_state[:, batch.predicting]
    return states


def _inputs(batch: DeviceBatch) -> dict[str, Any]:
    """Name what a forward over flat documents takes, as transformers does."""
    return {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "use_cache": False,
        "cu_seq_lens_q": batch.boundaries,
        "cu_seq_lens_k": batch.boundaries,
        "max_length_q": batch.longest,
        "max_length_k": batch.longest,
    }
