"""The loss of a set: summed over its target tokens, from logits, so that no row counts for more than its tokens."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from lorafit.data.batch import FlatBatch, flat_batch
from lorafit.data.packing import unpacked
from lorafit.data.token_rows import TokenRows

TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class LossSum:
    """Negative log-likelihood of all targets together, and how many they are."""

    nats: float
    target_tokens: int


@torch.inference_mode()
def evaluate_loss(forward: Callable[[FlatBatch], torch.Tensor], batches: Iterable[FlatBatch]) -> LossSum:
    """Add up what `forward` gives for each batch: the summed loss of its targets, in nats."""
    nats, target_tokens = 0.0, 0
    for batch in batches:
        nats += float(forward(batch))
        target_tokens += batch.target_tokens
    return LossSum(nats, target_tokens)


def row_batches(rows: TokenRows, limit: int = TOKENS_PER_BATCH) -> Iterator[FlatBatch]:
    """Give every row once, the longest first, as many together as have at most `limit` tokens (one at least)."""
    order = np.argsort(-rows.lengths, kind="stable")
    packs = unpacked(order)
    for start, end in pairwise(_cuts(rows.lengths[order], limit)):
        yield flat_batch(rows, packs, np.arange(start, end))


def _cuts(lengths: NDArray[np.int64], limit: int) -> list[int]:
    """Give where batches begin, and the end."""
    cuts, held = [0], 0
    for index, length in enumerate(lengths.tolist()):
        if held and held + length > limit:
            cuts.append(index)
            held = 0
        held += length
    return [*cuts, len(lengths)]


def target_bytes(rows: TokenRows, tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the UTF-8 bytes of the text that the targets write; special tokens write none."""
    edges = np.flatnonzero(np.diff(rows.targets, prepend=False, append=False))
    bounds = np.union1d(edges, rows.starts)  # two rows may meet in their targets
    spans = [rows.tokens[a:b].tolist() for a, b in pairwise(bounds.tolist()) if rows.targets[a]]
    texts = tokenizer.backend_tokenizer.decode_batch(spans, skip_special_tokens=True)
    return sum(len(text.encode()) for text in texts)
