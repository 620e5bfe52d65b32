"""What one model is worth on some rows: its loss, and its answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lorafit.data.batch import FlatBatch
from lorafit.data.token_rows import TokenRows
from lorafit.errors import DataError, OutOfMemory, first_line
from lorafit.evaluate.classes import CLASS_METRICS, confusion, majority
from lorafit.evaluate.generation import Answer, generate_answers
from lorafit.evaluate.loss import LossSum, evaluate_loss, row_batches, target_bytes
from lorafit.evaluate.metrics import ANSWER_METRICS, LOSS_METRICS, bits_per_byte, mean_loss, perplexity
from lorafit.evaluate.questions import Question
from lorafit.model.adapt import base_of
from lorafit.model.batch import to_device
from lorafit.model.documents import use_flat_rows
from lorafit.model.loss import document_logits, summed_loss
from lorafit.model.run import Loaded
from lorafit.model.stops import stop_tokens

BATCH_ROWS = 32  # answered together; halved when memory runs out, which changes no answer
SPARE_TOKENS = 16  # that an answer may have beyond twice the longest gold one


@dataclass(frozen=True)
class Work:
    """What is to be measured. `max_new_tokens` is None when no answers are asked for."""

    rows: TokenRows
    questions: list[Question]
    metrics: list[str]
    max_new_tokens: int | None


@dataclass(frozen=True)
class Scores:
    """The metrics by name, and the answers they come from."""

    metrics: dict[str, float]
    answers: list[Answer]
    majority: float | None = None  # of a classifier: the accuracy of always giving the most frequent class


def measure(loaded: Loaded, attention: str, work: Work) -> Scores:
    """Measure a model as it stands, its adapter on or off. Raises NumericalError, OutOfMemory, ModelError."""
    if loaded.labels:
        return _classes(loaded, attention, work)
    loss = _loss(loaded, attention, work.rows)
    scores = {"loss": mean_loss(loss.nats, loss.target_tokens), "perplexity": perplexity(loss.nats, loss.target_tokens)}
    if "bits_per_byte" in work.metrics:
        scores["bits_per_byte"] = bits_per_byte(loss.nats, target_bytes(work.rows, loaded.tokenizer))
    answers = [] if work.max_new_tokens is None else _answers(loaded, work.questions, work.max_new_tokens)
    golds = [question.gold for question in work.questions]
    texts = [answer.text for answer in answers]
    asked = [name for name in work.metrics if name not in LOSS_METRICS]
    return Scores(scores | {name: ANSWER_METRICS[name](texts, golds) for name in asked}, answers)


def _classes(loaded: Loaded, attention: str, work: Work) -> Scores:
    """Give every row a class, and compare; the loss is in nats per row."""
    nats, given, gold = 0.0, [], []
    with _flat_rows(loaded, attention), torch.inference_mode():
        try:
            for batch in row_batches(work.rows):
                there = to_device(batch, loaded.device)
                logits = document_logits(loaded.model, there)
                nats += float(cross_entropy(logits, there.targets, reduction="sum"))
                given.append(logits.argmax(dim=1).cpu().numpy())
                gold.append(there.targets.cpu().numpy())
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(error) from None
    matrix = confusion(np.concatenate(given), np.concatenate(gold), len(loaded.labels))
    loss = {"loss": mean_loss(nats, len(work.rows))}
    named = {name: CLASS_METRICS[name](matrix) for name in work.metrics if name != "loss"}
    return Scores(loss | named, [], majority(matrix))


def answer_limit(questions: list[Question], asked: int | None, context: int | None) -> int:
    """Give the longest answer to wait for: what was asked, or twice the longest gold one and some.

    Nothing goes beyond the model's context; DataError names the row whose question leaves no room in it.
    """
    longest = max(questions, key=lambda question: len(question.prompt))
    room = None if context is None else context - len(longest.prompt)
    wanted = asked or 2 * max(question.gold_tokens for question in questions) + SPARE_TOKENS
    if room is not None and room < (asked or 1):
        raise DataError(
            f"a question of {len(longest.prompt):,} tokens leaves {max(room, 0):,} of the model's {context:,} "
            f"for an answer of {asked or 1:,}",
            where=longest.gold.origin,
            fix="leave such rows out, or ask for shorter answers",
            code="E3-CONTEXT",
        )
    return wanted if room is None else min(wanted, room)


def _loss(loaded: Loaded, attention: str, rows: TokenRows) -> LossSum:
    def forward(batch: FlatBatch) -> torch.Tensor:
        return summed_loss(loaded.model, to_device(batch, loaded.device))

    with _flat_rows(loaded, attention):
        try:
            return evaluate_loss(forward, row_batches(rows))
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(error) from None


@contextmanager
def _flat_rows(loaded: Loaded, attention: str) -> Iterator[None]:
    """Lay rows out as in training; generation needs the model's own attention back."""
    base = base_of(loaded.model)
    own = base.config._attn_implementation
    use_flat_rows(base, attention)
    try:
        yield
    finally:
        base.set_attn_implementation(own)


def _answers(loaded: Loaded, questions: list[Question], max_new_tokens: int) -> list[Answer]:
    """Answer every question, in smaller batches when memory runs out."""
    batch_size = BATCH_ROWS
    while True:
        try:
            return generate_answers(
                loaded.model,
                loaded.tokenizer,
                [question.prompt for question in questions],
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                stop_ids=stop_tokens(base_of(loaded.model), loaded.tokenizer),
            )
        except torch.OutOfMemoryError as error:
            if batch_size == 1:
                raise _out_of_memory(error) from None
        batch_size //= 2
        torch.cuda.empty_cache()


def _out_of_memory(error: BaseException) -> OutOfMemory:
    return OutOfMemory(
        f"out of device memory while evaluating: {first_line(error)}",
        fix="free the device of other programs, or evaluate on a larger one",
        code="E6-EVAL",
    )
