"""Inputs of recomputed layers wait on the host: copied away while the forward goes on, and back one layer ahead.

What is kept of a recomputed layer is its input, which nobody reads before its backward. Copied by a stream of its own
to pinned memory it costs the card two of them instead of one a layer: the one that is at work, and the next.
"""

from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


class Away:
    """A tensor that goes to the host when another one follows; `before` is the one that the backward asks for next."""

    __slots__ = ("__weakref__", "before", "copied", "device", "here", "host", "stream")

    def __init__(self, x: torch.Tensor, stream: Any, before: "Away | None") -> None:
        self.device, self.stream, self.before = x.device, stream, before
        self.here: torch.Tensor | None = x
        self.host: torch.Tensor | None = None
        self.copied: Any = None  # the event after which it is back

    def send(self) -> None:
        """Begin to copy it away."""
        if self.here is not None:
            self.host, self.here = to_host(self.here, self.stream), None

    def fetch(self) -> None:
        """Begin to copy it back."""
        if self.here is None:
            assert self.host is not None
            self.here, self.copied = to_device(self.host, self.device, self.stream)

    def take(self) -> torch.Tensor:
        """Give it, on its device."""
        self.fetch()
        x, self.here = self.here, self.here if self.host is None else None
        assert x is not None
        if self.copied is not None:
            torch.cuda.current_stream(self.device).wait_event(self.copied)
        return x


class Offloading:
    """Checkpoints layers as torch does, what it keeps of them on the host."""

    def __init__(self, device: torch.device) -> None:
        on_card = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if on_card else None  # type: ignore[no-untyped-call]
        self.last: ReferenceType[Away] | None = None  # of this forward: those of a pass that has ended are gone

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Stand in for `torch.utils.checkpoint.checkpoint`."""
        with saved_tensors_hooks(self.put, self.get):  # sees the inputs alone: within, torch keeps nothing
            return checkpoint(function, *args, use_reentrant=False)

    def put(self, x: torch.Tensor) -> Away:
        """Keep a tensor until the next one, and then on the host: the newest is the first that the backward wants."""
        before = self.last() if self.last else None
        if before is not None:
            before.send()
        away = Away(x, self.stream, before)
        self.last = ref(away)
        return away

    def get(self, away: Away) -> torch.Tensor:
        """Bring it back, and begin with the next."""
        x = away.take()
        if away.before is not None:
            away.before.fetch()
        return x


def to_host(x: torch.Tensor, stream: Any) -> torch.Tensor:
    """Begin to copy from a card; on the CPU it is there."""
    if stream is None:
        return x
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    stream.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(stream):
        host.copy_(x, non_blocking=True)
    x.record_stream(stream)
    return host


def to_device(host: torch.Tensor, device: torch.device, stream: Any) -> tuple[torch.Tensor, Any]:
    """Begin to copy to a card; give the tensor, and the event after which it is there."""
    if stream is None:
        return host, None
    x = torch.empty(host.shape, dtype=host.dtype, device=device)
    stream.wait_stream(torch.cuda.current_stream(device))  # its room may have been another's until now
    with torch.cuda.stream(stream):
        x.copy_(host, non_blocking=True)
    x.record_stream(stream)
    return x, stream.record_event()
