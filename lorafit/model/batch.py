"""A micro-batch on the device: documents laid end to end in one row, with no padding and no mask."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lorafit.data.batch import FlatBatch


@dataclass(frozen=True)
class DeviceBatch:
    """Tokens of several documents in one row of S, and what is to be predicted where.

    Under a classification head the last token of each document predicts its class: T is the number of documents.
    """

    input_ids: torch.Tensor  # int64 [1, S]
    position_ids: torch.Tensor  # int64 [1, S], from 0 in each document
    boundaries: torch.Tensor  # int32 [documents + 1]: document d is boundaries[d] : boundaries[d + 1]
    lengths: tuple[int, ...]  # tokens of each document, known without asking the device
    predicting: torch.Tensor  # int64 [T]: positions whose next token is a target, or that a class is read at
    targets: torch.Tensor  # int64 [T]: those next tokens, or classes

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(self.lengths)


def to_device(batch: "FlatBatch", device: torch.device) -> DeviceBatch:
    """Move a batch over. A label is predicted from the position before it, in the same document."""
    ends = torch.tensor([0, *batch.lengths]).cumsum(0)
    predicting, targets = _aims(batch, ends[1:])
    return DeviceBatch(
        input_ids=_over(torch.from_numpy(batch.input_ids)[None], device),
        position_ids=_over(torch.from_numpy(batch.position_ids)[None], device),
        boundaries=_over(ends.to(torch.int32), device),
        lengths=tuple(batch.lengths),
        predicting=_over(predicting, device),
        targets=_over(targets, device),
    )


def _over(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device, from pinned memory to a card: a copy from any other waits for the card."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _aims(batch: "FlatBatch", ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the positions that predict, and what."""
    if batch.classes is not None:
        return ends - 1, torch.from_numpy(batch.classes)
    labels = torch.from_numpy(batch.labels)
    positions = torch.nonzero(labels != -100).squeeze(1)
    return positions - 1, labels[positions]
