"""Every storage of a step, at its birth and at its death: the log that a trace reads its peak from."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCK_BYTES = 512  # what torch's allocator rounds each tensor up to
FUSED_4BIT_TOKENS = 1536  # up to so many bitsandbytes may multiply by the packed weight itself


@dataclass(frozen=True, slots=True)
class Birth:
    """A storage as it was made."""

    number: int
    bytes: int
    operation: str
    shape: tuple[int, ...]
    dtype: str
    phase: str


@dataclass
class Peak:
    """The most that was live in a phase, and what it was."""

    bytes: int = 0
    live: dict[int, Birth] = field(default_factory=dict)


class StorageLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts live bytes as torch's allocator would, by phase; an event is (number, bytes), with 0 for a death."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase = "model"
        self.live: dict[int, Birth] = {}
        self.bytes = 0
        self.peaks: dict[str, Peak] = {}
        self.events: list[tuple[int, int]] = []
        self.phases: list[tuple[int, str]] = []  # how many events there were when each began
        self.last_number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func)
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                self._add(leaf, name, summed=_sums_gradients(func, args))
        scratch = kernel_scratch_bytes(name, args)
        if scratch:
            self._pass(scratch)
        return out

    def start_over(self) -> None:
        """Forget every peak, and how what is live came to be."""
        self.peaks, self.phases = {}, []
        self.events = [(birth.number, birth.bytes) for birth in sorted(self.live.values(), key=lambda b: b.number)]

    def numbers(self, tensors: Iterable[torch.Tensor]) -> set[int]:
        """Give the numbers of these tensors' storages, as far as they were logged."""
        keys = {tensor.untyped_storage()._cdata for tensor in tensors}
        return {self.live[key].number for key in keys if key in self.live}

    def enter(self, phase: str) -> None:
        """Begin a phase, with what is live now."""
        self.phase = phase
        self.phases.append((len(self.events), phase))
        self._mark(self.bytes)

    def _add(self, tensor: torch.Tensor, operation: str, *, summed: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.live or not storage.nbytes():  # an empty one would look like a death
            return
        self.last_number += 1
        size = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
        dtype = str(tensor.dtype).removeprefix("torch.")
        self.live[key] = Birth(self.last_number, size, operation, tuple(tensor.shape), dtype, self.phase)
        self.events.append((self.last_number, size))
        self.bytes += size
        weakref.finalize(storage, self._free, key).atexit = False
        if not summed:  # else one of the two is about to go, whose room a real sum takes
            self._mark(self.bytes)

    def _free(self, key: int) -> None:
        birth = self.live.pop(key, None)
        if birth is not None:
            self.bytes -= birth.bytes
            self.events.append((birth.number, 0))

    def _pass(self, scratch: int) -> None:
        self.last_number += 1
        self.events += [(self.last_number, scratch), (self.last_number, 0)]
        self._mark(self.bytes + scratch)

    def _mark(self, now: int) -> None:
        peak = self.peaks.setdefault(self.phase, Peak())
        if now > peak.bytes:
            peak.bytes, peak.live = now, dict(self.live)


def _sums_gradients(func: Any, args: Any) -> bool:
    """Tell whether autograd adds a second gradient to a first: real tensors in place, fake ones in a third.

    https://github.com/pytorch/pytorch/blob/v2.13.0/torch/csrc/autograd/input_buffer.cpp (can_accumulate_inplace)
    """
    if func is not torch.ops.aten.add.Tensor or torch.is_grad_enabled():
        return False
    return all(isinstance(x, torch.Tensor) for x in args[:2]) and args[0].shape == args[1].shape


def kernel_scratch_bytes(operation: str, args: Any) -> int:
    """Bytes that a card's kernel takes within one operation, which a fake tensor does not show.

    bitsandbytes unpacks the whole weight for a long pass (its `_dequant_linear_fallback`); FlashAttention-2 adds the
    gradient of the queries up in float32, heads rounded up to 32, keeps a sum of each score row, and makes the
    gradients of grouped keys and values for every head of the queries first; the memory-efficient kernel adds those of
    16-bit queries up in float32 too, in blocks of 64; logsumexp writes out exp(x - max), and the backward of softmax on
    a card gradient times output.
    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp
    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/cuda/mem_eff_attention/kernel_backward.h
    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/ReduceOps.cpp (logsumexp_out_impl)
    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/SoftMax.cu (softmax_backward_cuda_out)
    """
    if "gemm_4bit" in operation:
        x, shape, scales = args[0], args[2], args[3]
        tokens, blocks = x.numel() // x.shape[-1], shape[0] * shape[1] // 64
        unpacked = 2 * blocks * 4 if scales.numel() < blocks else 0  # of scales that are packed too, twice
        return int(shape[0] * shape[1] * x.element_size() + unpacked) if tokens > FUSED_4BIT_TOKENS else 0
    if "int8_scaled_mm" in operation:  # sums are whole numbers first
        return int(args[0].shape[0] * args[1].shape[0] * 4)
    if "_varlen_attn_backward" in operation:
        query, key = args[1:3]
        padded = query.shape[0] + 128
        grouped = 2 * query.numel() * query.element_size() if key.shape[1] < query.shape[1] else 0
        return int(padded * query.shape[1] * (-(-query.shape[2] // 32) * 32 + 1) * 4) + grouped
    if "_scaled_dot_product_flash_attention_backward" in operation:
        rows, heads, tokens, width = args[1].shape
        return int(rows * (tokens + 128) * heads * (-(-width // 32) * 32 + 1) * 4)
    if "_scaled_dot_product_efficient_attention_backward" in operation:
        rows, heads, tokens, width = args[1].shape
        return int(rows * heads * -(-tokens // 64) * 64 * width * 4) if args[1].element_size() == 2 else 0
    if operation.startswith(("aten.logsumexp", "aten._softmax_backward_data")):
        return int(args[0].numel() * args[0].element_size())
    return 0
