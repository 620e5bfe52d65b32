"""Tensors that can be made again from what is kept anyway, so that nobody keeps them."""

from collections.abc import Callable

import torch

_ATTRIBUTE = "lorafit_source"


class Remake:
    """Makes a tensor again for all who read it: one result, which lives from the first to the last of them."""

    __slots__ = ("_left", "_made", "_make", "_readers")

    def __init__(self, make: Callable[..., torch.Tensor]) -> None:
        self._make = make
        self._readers = self._left = 0
        self._made: torch.Tensor | None = None

    def expect(self) -> None:
        """Announce a reader, who will ask once in each backward pass."""
        self._readers += 1
        self._left += 1

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Give the tensor made of these inputs."""
        made = self._make(*inputs) if self._made is None else self._made
        self._left -= 1
        self._made = made if self._left else None
        self._left = self._left or self._readers
        return made


def can_be_remade(tensor: torch.Tensor, make: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """Note on a tensor what it is made of; gives the tensor."""
    setattr(tensor, _ATTRIBUTE, (Remake(make), inputs))
    return tensor


def source_of(tensor: torch.Tensor) -> tuple[Remake | None, tuple[torch.Tensor, ...]]:
    """Give what a reader has to keep for a tensor, and how to make it of that; None where it is the tensor itself."""
    remake, inputs = getattr(tensor, _ATTRIBUTE, (None, (tensor,)))
    return remake, inputs
