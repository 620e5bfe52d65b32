"""Prove that documents of one row do not see each other, on the very model that is about to be trained."""

from typing import cast

import torch
from transformers import PreTrainedModel

from lorafit.errors import ModelError, first_line
from lorafit.model.attention import EXPLICIT, FUSED, register
from lorafit.model.batch import DeviceBatch
from lorafit.model.classify import is_classifier
from lorafit.model.head_loss import trust_head
from lorafit.model.loss import target_logits, target_states

PROBE_LENGTHS = (7, 5, 9)
INT8_TOLERANCE = 0.05  # its outliers are picked over all tokens of a product: those of others change the rounding
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}  # relative to the largest logit


def use_flat_rows(model: PreTrainedModel, attention: str) -> None:
    """Switch the model to attention within documents, and prove it. ModelError when documents leak.

    The proof compares documents laid end to end with each alone under the model's own attention, so it also
    finds a kernel that computes something else than the model does.
    """
    documents = _probe(model)
    try:
        alone = _logits_alone(model, documents)
        if attention != "flash_attention_2":  # that one reads the boundaries by itself
            register()
            model.set_attn_implementation(EXPLICIT if attention == "eager" else FUSED)
        together = _logits_together(model, documents)
        if not is_classifier(model):
            _try_head(model, documents)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise _not_isolated(first_line(error)) from None
    worst = float((together - alone).abs().max() / alone.abs().max())
    if not worst <= _tolerance(model):
        raise _not_isolated(f"a document's logits move by {worst:.2g} of the largest when others share its row")


def _tolerance(model: PreTrainedModel) -> float:
    least = INT8_TOLERANCE if getattr(model, "is_loaded_in_8bit", False) else 0.0
    return max(least, TOLERANCE[_embedding(model).dtype])


def _embedding(model: PreTrainedModel) -> torch.Tensor:
    """Give the matrix whose rows are the vocabulary; its dtype bounds the precision of the logits."""
    return cast("torch.Tensor", model.get_input_embeddings().weight)


def _probe(model: PreTrainedModel) -> list[torch.Tensor]:
    vocabulary = min(_embedding(model).shape[0], 1000)
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(vocabulary, (length,), generator=generator) for length in PROBE_LENGTHS]


@torch.no_grad()
def _logits_alone(model: PreTrainedModel, documents: list[torch.Tensor]) -> torch.Tensor:
    """Give the logits [tokens, vocab] of each document in a row of its own."""
    rows = [d[None].to(model.device) for d in documents]
    if is_classifier(model):  # its head is the same for all; what it reads is compared
        outputs = [model.base_model(input_ids=row, use_cache=False).last_hidden_state[0] for row in rows]
    else:
        outputs = [model(input_ids=row, use_cache=False).logits[0] for row in rows]
    return torch.cat(outputs).float()


@torch.no_grad()
def _logits_together(model: PreTrainedModel, documents: list[torch.Tensor]) -> torch.Tensor:
    """Give the same logits with all documents in one row."""
    row = _row(documents, model.device)
    return (target_states(model, row)[0] if is_classifier(model) else target_logits(model, row)).float()


@torch.no_grad()
def _try_head(model: PreTrainedModel, documents: list[torch.Tensor]) -> None:
    """See whether the head alone turns the last hidden states into the logits, so that they need not all be made."""
    row = _row(documents, model.device)
    try:
        states = target_states(model, row)
    except (AttributeError, TypeError):  # its layers alone cannot be called so: its whole forward makes the loss
        return
    trust_head(model, states, target_logits(model, row)[None])


def _row(documents: list[torch.Tensor], device: torch.device) -> DeviceBatch:
    """Lay documents end to end, every position predicting."""
    lengths = tuple(len(d) for d in documents)
    return DeviceBatch(
        input_ids=torch.cat(documents)[None].to(device),
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None].to(device),
        boundaries=torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32),
        lengths=lengths,
        predicting=torch.arange(sum(lengths)).to(device),
        targets=torch.cat(documents).to(device),
    )


def _not_isolated(reason: str) -> ModelError:
    return ModelError(
        f"this model cannot train on several documents in one row: {reason}",
        where="model.attention",
        fix="try model.attention: eager; this version lays rows out in no other way",
        code="E4-ATTENTION",
    )
