"""Cross-entropy under a frozen output head, a chunk of targets at a time: no logits outlive their chunk.

The head needs no gradient of its own, so the gradient with respect to the hidden states can be taken while the
logits are there: two products per chunk, as many as the forward and the backward of the head cost anyway.
"""

from typing import Any, cast
from weakref import WeakSet

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from lorafit.plan.heads import CHUNK_LOGITS

# Models whose logits are proved to be what their head makes of the last hidden states, and nothing more.
_PLAIN: WeakSet[PreTrainedModel] = WeakSet()


def trust_head(model: PreTrainedModel, hidden: torch.Tensor, logits: torch.Tensor) -> None:
    """Note a model as plain if its head gives these logits for these states: no soft cap, no scale, no mean."""
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear) and torch.equal(head(hidden), logits):
        _PLAIN.add(model)


def take_as_plain(model: PreTrainedModel) -> None:
    """Note a model as plain without a proof: fake tensors, which have no values, cannot give one."""
    _PLAIN.add(model)


def frozen_head(model: PreTrainedModel) -> nn.Linear | None:
    """Give the head that `head_loss` may use; None where it is trained, adapted, or not all there is to logits."""
    head = model.get_output_embeddings() if model in _PLAIN else None
    whole_or_split = type(head) is nn.Linear or isinstance(head, FSDPModule)
    if not isinstance(head, nn.Linear) or not whole_or_split or any(p.requires_grad for p in head.parameters()):
        return None
    return head


def head_loss(hidden: torch.Tensor, head: nn.Linear, targets: torch.Tensor) -> torch.Tensor:
    """Sum the negative log-likelihood of targets [T] given hidden states [T, hidden], in nats and float32."""
    states = hidden.to(head.weight.dtype)
    summed = _HeadLoss.apply(states, head.weight, head.bias, targets)  # type: ignore[no-untyped-call]
    return cast("torch.Tensor", summed)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        nats = torch.zeros((), device=hidden.device)
        rows = max(1, min(len(targets), CHUNK_LOGITS // weight.shape[0]))
        room = torch.empty(rows, weight.shape[0], device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), rows):
                part = slice(start, start + rows)
                logits = _logits(hidden[part], weight, bias, room)
                nats += _nats(logits, targets[part])
                if gradient is not None:
                    torch.mm(_logit_gradient(logits, targets[part]).to(weight.dtype), weight, out=gradient[part])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return nats

    @staticmethod
    def backward(ctx: Any, *received: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * received[0].to(gradient.dtype), None, None, None


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, room: torch.Tensor) -> torch.Tensor:
    """Make float32 logits in the memory that all chunks share: on a CPU fresh pages cost as much as the numbers."""
    logits = room[: len(hidden)]
    if weight.dtype != torch.float32:
        return logits.copy_(nn.functional.linear(hidden, weight, bias))
    if bias is not None:
        return torch.addmm(bias, hidden, weight.t(), out=logits)
    return torch.mm(hidden, weight.t(), out=logits)


def _nats(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Turn logits [T, vocab] into log-probabilities in place, row by row, and sum those of the targets."""
    torch.log_softmax(logits, dim=1, out=logits)
    return -logits.gather(1, targets[:, None]).sum()


def _logit_gradient(log_probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Give softmax less one at the target, in place and in float32: rounded first, confident targets would be lost."""
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(1, targets[:, None], gradient.new_full((1, 1), -1.0).expand(len(targets), 1))
    return gradient
