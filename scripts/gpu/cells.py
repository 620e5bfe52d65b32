"""What is measured: each cell in a process of its own, by a name that a later call finds again."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

Kind = Literal["memory", "speed", "row", "loss", "linear"]
LLAMA8, LLAMA70 = "meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-70B"
LLAMA1, QWEN7, QWEN14 = "meta-llama/Llama-3.2-1B", "Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-14B"
LLAMA3B, QWEN32 = "meta-llama/Llama-3.2-3B", "Qwen/Qwen2.5-32B"
ROUNDS = 2  # A B A B
PAGED = "paged_adamw_8bit"


@dataclass(frozen=True)
class Cell:
    """One measurement. `target` is what engine.md asks for, in words; peers have none."""

    name: str
    kind: Kind
    settings: dict[str, Any] = field(default_factory=dict)
    contender: str = "lorafit"
    target: str = ""


def every_cell() -> list[Cell]:
    """Speed first, as it matters most; then the longest rows, then the matrix of memory."""
    return [*kernels(), *speeds(), *least_memory(), *rows(), *matrix()]


def kernels() -> Iterator[Cell]:
    """G10 and G11: the loss and a linear layer alone, beside the products that they cannot do without."""
    yield Cell("G10 loss", "loss", target="time <= 1.25 x of two products, memory <= 1.2 GB")
    yield Cell("G11 linear", "linear", target="time <= 1.12 x of the frozen products")


def speeds() -> Iterator[Cell]:
    """G1, G3 and G7, with peers in turns: those recompute, as they do by default, and would not fit without."""
    eight = {"model_name": LLAMA8, "full_rows": 4096, "batch_rows": 4}
    four_bits = {"quantization": "nf4", "optimizer": PAGED}
    seventy = {"model_name": LLAMA70, "full_rows": 4096, "batch_rows": 1} | four_bits
    cases = {
        "G1 8B bf16": (eight, "16,300 tokens/s; 1.25 x the best peer; 2 x Trainer", ("trainer", "trl")),
        "G3 8B nf4": (eight | four_bits, "0.97 x of G1", ("trainer",)),
        "G7 70B nf4": (seventy, "1,700 tokens/s in 115 GiB", ()),
    }
    for turn in range(1, ROUNDS + 1):
        for name, (settings, target, peers) in cases.items():
            yield Cell(f"{name} lorafit {turn}", "speed", settings | {"automatic": True}, target=target)
            for peer in peers:
                plain = {key: value for key, value in settings.items() if key != "optimizer"}
                yield Cell(f"{name} {peer} {turn}", "speed", plain | {"recompute": True}, peer)


def least_memory() -> Iterator[Cell]:
    """G5 and the second half of G7: everything recomputed, moments in 8 bits and paged."""
    lean = {"quantization": "nf4", "optimizer": PAGED, "recompute": True, "full_rows": 2048}
    for rows_, limit in ((1, "6.0 GiB"), (2, "6.6 GiB")):
        settings = lean | {"model_name": LLAMA8, "batch_rows": rows_}
        yield Cell(f"G5 8B nf4 {rows_}x2048", "memory", settings, target=limit)
    yield Cell("G7 70B nf4 1x2048", "memory", lean | {"model_name": LLAMA70, "batch_rows": 1}, target="41 GB")


def rows() -> Iterator[Cell]:
    """G6: the longest row that a step can take in so much memory."""
    lean = {"model_name": LLAMA8, "quantization": "nf4", "optimizer": PAGED, "recompute": True, "batch_rows": 1}
    yield Cell("G6 24 GB", "row", lean | {"capacity_gb": 24}, target="150,000 tokens")
    yield Cell("G6 80 GB", "row", lean | {"capacity_gb": 80}, target="400,000 tokens")


def matrix() -> Iterator[Cell]:
    """Settings whose peak stands beside the estimate; those that the card cannot hold are left out when run."""
    sizes = ((2048, 1), (2048, 4), (8192, 1))
    for name, bits, (length, count), recompute in product(
        (LLAMA1, QWEN7, LLAMA8, QWEN14), ("none", "nf4"), sizes, (True, False)
    ):
        yield _memory(name, bits, "lora", length, count, recompute=recompute)
    for name, bits, recompute in product((LLAMA1, LLAMA8), ("none", "nf4"), (True, False)):
        yield _memory(name, bits, "dora", 2048, 1, recompute=recompute)
    for name, recompute in product((LLAMA1, LLAMA3B), (True, False)):
        yield _memory(name, "none", "full", 2048, 1, recompute=recompute)
    for name, length in product((QWEN32, LLAMA70), (2048, 8192)):
        yield _memory(name, "nf4", "lora", length, 1, recompute=True)


def _memory(name: str, bits: str, adapter: str, length: int, count: int, *, recompute: bool) -> Cell:
    settings = {
        "model_name": name, "quantization": bits, "adapter": adapter, "full_rows": length, "batch_rows": count,
        "recompute": recompute,
    }  # fmt: skip
    again = "recomputed" if recompute else "kept"
    return Cell(f"{name.rpartition('/')[2]} {bits} {adapter} {count}x{length} {again}", "memory", settings)
