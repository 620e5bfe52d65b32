"""The benchmark of ms-swift: its step, traced, then replayed over rows of as many lengths as its data has.

    python -m scripts.vram_swift MEASURED.csv    # adds to benchmarks/2026-11-30-vram-swift.json

What its models' own code does otherwise than transformers is done here too: 16-bit logits and their shifted copy (Qwen,
Baichuan), a head whose weight is normalised in each pass (Baichuan 2), and 4-bit products that keep their input where
recomputation does not see it (bitsandbytes 0.41.3, which the benchmark names). About a minute a row.
"""

import csv
import json
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from lorafit.model import trace as tracing
from lorafit.model import trace_packed
from lorafit.model.batch import DeviceBatch
from lorafit.model.loss import _inputs
from lorafit.plan.allocator import CardFull
from lorafit.plan.cards import find_card
from lorafit.plan.memory import CONTEXT_BYTES
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.plan.unroll import unrolled
from lorafit.recipe.adapters import Full, Lora
from scripts import vram_replay
from scripts.vram_lengths import Lengths, Steps
from scripts.vram_programs import SWIFT, question_for
from scripts.vram_reasons import TRACES, Case, run_key
from scripts.vram_replay import DEPTHS, _adamw, _built, _plain

SOURCE = "modelscope/ms-swift docs"
CLOSE = 0.10  # rows that the estimate answers need no replay
TRACED = (512, 1024, 2048)  # tokens
SEEDS = (1, 2, 3)
STEPS = 100  # passes of a draw: a longer run holds the more, the further it goes
DATA_ROWS, SAMPLED_ROWS = 4959, 1000  # above 2,048 tokens its script takes the first thousand rows (`run_single.py`)

# token statistics of its data by Qwen's tokenizer, as docs/source_en/LLM/Benchmark.md of modelscope/ms-swift has them
# (46922151): 3234.4±2547.5, min=91, max=19548
FUDAN_NEWS = Lengths(3234.4, 2547.5, 91, 19548)

_LLAMA = {"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_size": 4096}
# models as transformers' own classes build them: those that were trained had code of their own
CONFIGS: dict[str, dict[str, object]] = {
    "qwen-1_8b-chat": {
        **_LLAMA, "vocab_size": 151_936, "intermediate_size": 5504, "num_hidden_layers": 24, "attention_bias": True,
        "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 16,
    },
    "qwen-7b-chat": {
        **_LLAMA, "vocab_size": 151_936, "intermediate_size": 11_008, "num_hidden_layers": 32, "attention_bias": True,
    },
    "qwen-14b-chat": {
        **_LLAMA, "vocab_size": 152_064, "intermediate_size": 13_696, "num_hidden_layers": 40, "attention_bias": True,
        "hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 40,
    },
    "yi-6b-chat": {
        **_LLAMA, "vocab_size": 64_000, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_key_value_heads": 4,
    },
    "yi-34b-chat": {
        **_LLAMA, "vocab_size": 64_000, "intermediate_size": 20_480, "num_hidden_layers": 60, "num_key_value_heads": 8,
        "hidden_size": 7168, "num_attention_heads": 56,
    },
    "baichuan2-7b-chat": {**_LLAMA, "vocab_size": 125_696, "intermediate_size": 11_008, "num_hidden_layers": 32},
    "baichuan2-13b-chat": {
        **_LLAMA, "vocab_size": 125_696, "intermediate_size": 13_696, "num_hidden_layers": 40, "hidden_size": 5120,
        "num_attention_heads": 40, "num_key_value_heads": 40,
    },
}  # fmt: skip


def steps_of(row: dict[str, str]) -> Steps | None:
    """Trace a row's step at three lengths; None where its model or settings are not known."""
    config = CONFIGS.get(row["model"])
    question = question_for(row, SWIFT)
    if config is None or question is None:
        return None
    adapter = question.adapter
    if not isinstance(adapter, Full):
        leaves = ["q_proj", "k_proj", "v_proj"] if "fused" in row["target_modules"] else "all-linear"
        adapter = Lora.model_validate(
            adapter.model_dump() | {"kind": "lora", "target_modules": leaves, "dropout": 0.05}
        )
    shape = shape_from_config(config, row["model"])
    question = replace(question, shape=shape, adapter=adapter, accumulation=False, micro_batch_size=1)
    if is_packed(row):
        return Steps({count: _packed(question, config, count) for count in TRACED})
    with _plain(), _own_code(row["model"], question):
        return Steps({length: _recorded(replace(question, max_length=length), config) for length in TRACED})


def is_packed(row: dict[str, str]) -> bool:
    """Tell whether rows are of one length: what differs between them is how many of their tokens are answers."""
    return "packing" in row["method"]


def _packed(question: MemoryQuestion, config: dict[str, object], answers: int) -> Any:
    with _plain(), patch.object(vram_replay, "_loss", partial(_scaled_loss, answers)):
        return _recorded(question, config)


def _recorded(question: MemoryQuestion, config: dict[str, object]) -> Any:
    layers = len(question.shape.layers)
    depths = (layers,) if question.is_full else DEPTHS
    found = [tracing.trace(question, config, depth, _adamw).recording for depth in depths]
    return unrolled(found[-1], found[0], layers)


@contextmanager
def _own_code(model: str, question: MemoryQuestion) -> Iterator[None]:
    with ExitStack() as stack:
        if not model.startswith("yi"):
            stack.enter_context(patch.object(vram_replay, "_loss", _narrow_loss))
        if model.startswith("baichuan2"):
            stack.enter_context(patch.object(vram_replay, "_built", _with_normalised_head))
        stack.enter_context(patch.object(trace_packed, "_bits4_class", _old_class))
        yield


def _narrow_loss(model: PreTrainedModel, batch: DeviceBatch, version: tuple[int, ...]) -> torch.Tensor:
    """Qwen's and Baichuan's: 16-bit logits and their shifted copy; the Trainer makes float32 outputs, which none uses.

    ms-swift counts right answers in those (`compute_loss` in swift/trainers/trainers.py of 1.6.0).
    """
    del version
    logits = model(**_inputs(batch)).logits
    shifted = logits[:, :-1].clone()
    loss = functional.cross_entropy(shifted[0], torch.zeros(shifted.shape[1], dtype=torch.long))
    del shifted
    outputs = logits.float()
    del logits
    outputs.argmax(-1)
    return loss


def _scaled_loss(answers: int, model: PreTrainedModel, batch: DeviceBatch, version: tuple[int, ...]) -> torch.Tensor:
    """The weighted loss of agents: float32 outputs, and of those a copy of the tokens that are answers.

    `compute_scaled_loss` in swift/trainers/trainers.py of ms-swift 2.0.5, which its tuners were compared with.
    """
    del version
    logits = model(**_inputs(batch)).logits
    outputs = logits.float()
    del logits
    picked = outputs[0, :-1][torch.zeros(min(answers, outputs.shape[1] - 1), dtype=torch.long)]
    losses = functional.cross_entropy(picked, torch.zeros(len(picked), dtype=torch.long), reduction="none")
    del picked
    outputs.argmax(-1)
    return losses.mean()


def _with_normalised_head(*others: Any) -> Any:
    """Baichuan 2's `NormHead`: the weight is normalised in each forward of a training pass.

    A copy of it: InternLM/xtuner, xtuner/model/modules/dispatch/baichuan.py, `baichuan2_norm_head_forward`.
    """
    attached = _built(*others)
    head = attached.model.get_output_embeddings()
    head.forward = lambda x: functional.linear(x, functional.normalize(head.weight))
    return attached


class _OldProduct(torch.autograd.Function):
    """MatMul4Bit of bitsandbytes 0.41.3: the input is an attribute of the node, so that no checkpoint drops it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, out_features: int) -> torch.Tensor:
        unpacked = x.new_empty(out_features, x.shape[-1])
        ctx.shape = unpacked.shape
        ctx.tensors = x if ctx.needs_input_grad[0] else None
        return functional.linear(x, unpacked)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.matmul(gradients[0], gradients[0].new_empty(ctx.shape)), None


_new_class = trace_packed._bits4_class


@cache
def _old_class() -> type[nn.Module]:
    class Packed(_new_class()):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            product: torch.Tensor = _OldProduct.apply(x.to(self.compute_dtype), self.out_features)  # type: ignore[no-untyped-call]
            return (product if self.bias is None else product + self.bias.to(self.compute_dtype)).to(x.dtype)

    return Packed


def replayed(row: dict[str, str], steps: Steps) -> dict[str, object]:
    """Replay a row's run over rows of one length, and over some draws of lengths as its data has them."""
    max_length, rows = int(row["seq_len"].strip("<=")), int(row["micro_batch"])
    if is_packed(row):
        draws = [_reserved(steps, _evenly(max_length - 1, seed)) for seed in SEEDS]
        return {"passes": STEPS, "one length": _reserved(steps, [max_length - 1] * 3), "draws": sorted(draws)}
    total = (DATA_ROWS if max_length <= 2048 else SAMPLED_ROWS) * FUDAN_NEWS.share(max_length)
    count = min(STEPS * rows, round(total))
    draws = [_reserved(steps, _batches(FUDAN_NEWS.draw(count, max_length, seed), rows)) for seed in SEEDS]
    return {"passes": count // rows, "one length": _reserved(steps, [rows * max_length] * 3), "draws": sorted(draws)}


def _evenly(most: int, seed: int) -> list[int]:
    """Draw how many tokens of each row are answers, of which nothing is published: any number is as likely."""
    draw = random.Random(seed)
    return [draw.randint(1, most) for _ in range(STEPS)]


def _batches(lengths: Sequence[int], rows: int) -> list[int]:
    """Tokens of each pass: rows are padded to the longest of them."""
    return [rows * max(lengths[start : start + rows]) for start in range(0, len(lengths) - rows + 1, rows)]


def _reserved(steps: Steps, tokens: Sequence[int]) -> int:
    """Reserve on the card that all had; what fills it was given back on the way, and takes all of it."""
    capacity = find_card("a100-80gb").capacity_bytes - CONTEXT_BYTES
    try:
        return steps.peak_reserved(tokens, capacity)
    except CardFull:
        return capacity


def main() -> None:
    """Add what every kind of run comes to, as far as its model is known and it is not there yet."""
    with Path(sys.argv[1]).open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"].startswith(SOURCE)]
    rows = [row for row in rows if row["gpus"].startswith("1x") and row["attention"] != "eager"]
    traced: dict[tuple[str, ...], Steps | None] = {}
    found = json.loads(TRACES["swift"].read_text(encoding="utf-8")) if TRACES["swift"].exists() else {}
    for row in rows:
        key = tuple(row[each] for each in ("model", "method", "grad_ckpt"))
        question = question_for(row, SWIFT)
        if run_key(row) in found or question is None or abs(Case(row, question).error) <= CLOSE:
            continue
        if key not in traced:
            traced[key] = steps_of(row)
        if (steps := traced[key]) is not None:
            found[run_key(row)] = replayed(row, steps)
            print(run_key(row), row["measured_gb"], found[run_key(row)], flush=True)
            TRACES["swift"].write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
