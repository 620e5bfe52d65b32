"""Set `estimate-vram --engine transformers@VERSION` against published measurements: one line a run, and the errors.

    python scripts/vram_accuracy.py ../shared/data/vram/measured.csv

Only rows whose settings are all known are compared: `allocated`, a fixed row length, plain transformers + PEFT
(+ bitsandbytes) without fused kernels, on one GPU or with FSDP. Nothing here or in the memory model is fitted to them.
"""

import csv
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from lorafit.errors import LorafitError
from lorafit.plan.find_shape import find_shape
from lorafit.plan.listed import with_listed_experts
from lorafit.plan.memory import estimate
from lorafit.plan.question import BaseDtype, MemoryQuestion
from lorafit.plan.stack import Kernel, Stack, Upcast
from lorafit.plan.targets import match_targets
from lorafit.recipe.adapters import Adapter, Full, Lora
from lorafit.recipe.quantization import Nf4, Unquantized
from scripts.spread import Spread, relative_error

BYTES = {"GB": 10**9, "GiB": 2**30}
METHODS = ("full", "lora", "qlora")
OTHER_KERNELS = ("fused ops", "liger", "padding-free")


@dataclass(frozen=True)
class Compared:
    """A published run beside its estimate."""

    run: str
    measured_bytes: int
    estimated_bytes: int
    phase: str
    gpus: int = 1

    @property
    def error(self) -> float:
        """As a share of what was measured."""
        return relative_error(self.estimated_bytes, self.measured_bytes)


def compared(rows: list[dict[str, str]]) -> Iterator[Compared]:
    """Answer every row that says all its settings."""
    for row in rows:
        question = question_of(row) if is_specified(row) else None
        if question is not None:
            found = estimate(question)
            measured = round(float(row["measured_gb"]) * BYTES[row["unit"]])
            yield Compared(_run(row, question), measured, found.peak_bytes, found.peak_phase, question.gpus)


def is_specified(row: dict[str, str]) -> bool:
    """Tell whether a row is a run of the plain stack with every setting known."""
    return (
        row["measured_kind"] == "allocated"
        and (row["gpus"].startswith("1x") or "FSDP full shard" in row["notes"])
        and row["method"] in METHODS
        and re.match(r"\d+( \(packed\))?$", row["seq_len"]) is not None
        and "transformers" in row["notes"]
        and not any(other in row["notes"] for other in OTHER_KERNELS)
    )


def question_of(row: dict[str, str]) -> MemoryQuestion | None:
    """Put a row into a question; None for a model whose shape is not known."""
    try:
        shape = find_shape(row["model"]).shape
    except LorafitError:
        return None
    stack = _stack(row)
    question = MemoryQuestion(
        shape=with_listed_experts(shape) if stack.lists_experts else shape,
        adapter=_adapter(row),
        quantization=Nf4() if row["method"] == "qlora" else Unquantized(),
        dtype=cast("BaseDtype", row["dtype"].split()[0]),
        max_length=int(row["seq_len"].split()[0]),
        micro_batch_size=int(row["micro_batch"]),
        checkpointing=row["grad_ckpt"] == "true",
        accumulation=False,
        gpus=int(row["gpus"].partition("x")[0]),
        sharded="FSDP" in row["notes"],
        stack=stack,
    )
    return _with_known_targets(question)


def _stack(row: dict[str, str]) -> Stack:
    found = re.search(r"transformers (\d+(?:\.\d+)+)", row["notes"])
    assert found
    upcast: Upcast = "norms" if "norms fp32" in row["notes"] else "none"
    if "stock" in row["notes"]:
        upcast = "all"
    return Stack(
        version=tuple(int(part) for part in found[1].split(".")),
        upcast=upcast,
        amp="no AMP" not in row["dtype"],
        kernel=cast("Kernel", row["attention"]),
        cache="use_cache on" in row["notes"],
    )


def _adapter(row: dict[str, str]) -> Adapter:
    if row["method"] == "full":
        return Full()
    dropout = re.search(r"lora_dropout ([\d.]+)", row["notes"])
    return Lora(
        rank=int(row["rank"]),
        dropout=float(dropout[1]) if dropout else 0.0,
        target_modules=row["target_modules"].split() or "all-linear",
    )


def _with_known_targets(question: MemoryQuestion) -> MemoryQuestion:
    """PEFT passes over a name that this model does not have."""
    adapter = question.adapter
    if isinstance(adapter, Full) or not isinstance(adapter.target_modules, list):
        return question
    linears = [linear.name for linear in question.shape.linears()]
    known = [name for name in adapter.target_modules if any(each.endswith(f".{name}") for each in linears)]
    assert match_targets(known, linears)
    return replace(question, adapter=adapter.model_copy(update={"target_modules": known}))


def _run(row: dict[str, str], question: MemoryQuestion) -> str:
    assert question.stack
    size = f"{question.micro_batch_size} x {question.max_length}"
    if question.gpus > 1:
        size += f" on {question.gpus} cards"
    amp = "" if question.stack.amp else ", no AMP"
    return f"{row['model']} {row['method']} {size}, {question.stack.name}, upcast {question.stack.upcast}{amp}"


def main() -> None:
    """Print the table and the errors."""
    with Path(sys.argv[1]).open(encoding="utf-8", newline="") as lines:
        found = list(compared(list(csv.DictReader(lines))))
    for each in found:
        measured, estimated = each.measured_bytes / 1e9, each.estimated_bytes / 1e9
        print(f"{measured:8.3f} {estimated:8.3f} GB {100 * each.error:+6.2f} %  {each.run}: {each.phase}")
    print(Spread.of(each.error for each in found))


if __name__ == "__main__":
    main()
