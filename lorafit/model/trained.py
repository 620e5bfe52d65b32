"""What is trained, by name as it is saved, and as the update sees it: one flat tensor where that changes no number."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import nn

ALIGNED_VALUES = 64  # 256 bytes: every parameter begins where a vector load may


class Trained:
    """The trained parameters of a model, in their order.

    Flat, they become views of one float32 buffer, and their gradients, once a pass has made them, views of another: one
    kernel updates them, one collective adds them up, and a parameter that a step does not reach has a gradient of
    zero, as it has beside a process that reaches it. Else each stays a tensor of its own: full fine-tuning would hold
    its weights twice while they move, and bitsandbytes gives blocks of each tensor a scale and small tensors 32 bits,
    so that a flat one would be other numbers.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], *, flat: bool) -> None:
        self.named = dict(named)
        self.whole = _lay_out(list(self.named.values())) if flat else None

    @property
    def tensors(self) -> list[nn.Parameter]:
        """What the optimizer updates."""
        return list(self.named.values()) if self.whole is None else [self.whole]

    def zero_grad(self) -> None:
        """Let go of the gradients."""
        for tensor in [*self.named.values(), *self.tensors]:
            tensor.grad = None

    def gather(self) -> None:
        """Lay flat what the first pass of a step has made; the passes after it add to that."""
        if self.whole is None or self.whole.grad is not None:
            return
        self.whole.grad = torch.zeros_like(self.whole)
        parameters = list(self.named.values())
        views = list(_views(self.whole.grad, parameters))
        made = [(view, p.grad) for view, p in zip(views, parameters, strict=True) if p.grad is not None]
        if made:
            torch._foreach_copy_([view for view, _ in made], [gradient for _, gradient in made])
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view

    def clip(self, limit: float | None) -> torch.Tensor:
        """Scale the gradients down to a norm of `limit`; give the norm before that, on the device and not read.

        It is the norm of the parameters' norms even where they lie in one buffer: the CPU's norm over 42 million
        float32 values at once is off by 3e-3.
        """
        gradients = [p.grad for p in self.named.values() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        nn.utils.clip_grads_with_norm_(self.tensors, limit or math.inf, norm)
        return norm

    def views(self, value: torch.Tensor) -> Iterator[torch.Tensor]:
        """Take a tensor laid out like the flat buffer apart, in the order of the parameters."""
        return _views(value, list(self.named.values()))


def _lay_out(parameters: list[nn.Parameter]) -> nn.Parameter:
    """Move the values into one buffer; what lies between them stays zero."""
    first, size = parameters[0], sum(_room(p) for p in parameters)
    whole = nn.Parameter(torch.zeros(size, device=first.device, dtype=first.dtype))
    for parameter, view in zip(parameters, _views(whole.detach(), parameters), strict=True):
        parameter.data = view.copy_(parameter.detach())
    return whole


def _room(parameter: nn.Parameter) -> int:
    return -(-parameter.numel() // ALIGNED_VALUES) * ALIGNED_VALUES


def _views(buffer: torch.Tensor, parameters: list[nn.Parameter]) -> Iterator[torch.Tensor]:
    parts = torch.split(buffer, [_room(p) for p in parameters])
    return (part[: p.numel()].view(p.shape) for part, p in zip(parts, parameters, strict=True))
