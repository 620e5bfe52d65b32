"""Float32 arithmetic over weights of any width: compares what models are, not how they round."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

NARROW = (torch.bfloat16, torch.float16)


class Float32Arithmetic(TorchFunctionMode):
    """Widen every 16-bit tensor on its way into an operation; what is stored stays as it is.

    So a 16-bit model computes as its float32 copy would, at the memory of one layer more.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation on widened operands."""
        named = dict(kwargs or {})
        if function is embedding:  # a few rows of a large table
            return _widened(function(*args, **named))
        if getattr(function, "__name__", "") == "__get__":  # shape, device and the like
            return function(*args, **named)
        return function(*tree_map(_widened, tuple(args)), **tree_map(_widened, named))


def _widened(value: object) -> object:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in NARROW else value


@torch.inference_mode()
def float32_logits(model: nn.Module, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Give the logits of every token of every row, one after the other: float32 [tokens, vocab]."""
    with Float32Arithmetic():
        logits = [model(input_ids=torch.tensor([list(row)]), use_cache=False).logits[0] for row in rows]
        return torch.cat(logits)
