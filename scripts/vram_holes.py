"""What torch reserves beyond the peak, replayed: the constants of the estimate beside traced steps of real models.

    python -m scripts.vram_holes

One line a step: its peak, what comes and goes in it by the estimate, the holes that the replay of its births and deaths
left with expandable segments and without, and what the estimate says of them. At the end the shares that the holes,
less the pages that are not full, are of what comes and goes: the median is `SHARE_EXPANDABLE` of
`lorafit/plan/holes.py`.
"""

import statistics

from lorafit.model.trace_depth import exact
from lorafit.plan.holes import PAGES_BYTES
from lorafit.plan.memory import estimate
from lorafit.plan.reserved import reserve
from lorafit.plan.unroll import training
from lorafit.plan.vram import answer
from lorafit.train.trace import fake_optimizer

MIB = 2**20
ASKED = (
    ("8b", "qlora", 2048, 1), ("8b", "qlora", 2048, 4), ("8b", "lora", 4096, 2), ("70b", "qlora", 1024, 1),
    ("70b", "qlora", 4096, 1), ("llama-3.2-3b", "lora", 4096, 4), ("llama-3.2-1b", "qlora", 1024, 8),
    ("gemma-2-9b", "qlora", 2048, 1), ("qwen3-8b", "dora", 2048, 1), ("mistral-7b", "qlora", 8192, 1),
    ("qwen2.5-0.5b", "lora", 1024, 4), ("mixtral-8x7b", "qlora", 2048, 1),
)  # fmt: skip


def main() -> None:
    """Print the table and the shares."""
    shares: list[tuple[float, float]] = []
    for model, method, length, rows in ASKED:
        asked = answer(
            None, model=model, method=method, rank=None, target_modules=None, max_length=length, micro_batch_size=rows,
            gpus=1, gpu=None,
        )  # fmt: skip
        traced, found = exact(asked.question, asked.model.config, fake_optimizer), estimate(asked.question)
        held = reserve(training(traced.recording), None)
        passing = sum(part.bytes for part in found.components if part.passing)
        left = held.expandable_bytes - traced.peak_bytes, held.default_bytes - traced.peak_bytes
        shares.append(((left[0] - PAGES_BYTES) / passing, (left[1] - PAGES_BYTES) / passing))
        print(
            f"{model} {method} {rows} x {length}: peak {traced.peak_bytes / MIB:,.0f} MiB, comes and goes "
            f"{passing / MIB:,.0f}, holes {left[0] / MIB:,.0f} expandable and {left[1] / MIB:,.0f} without, "
            f"estimated {found.reserved_bytes / MIB:,.0f}",
            flush=True,
        )
    for name, values in zip(("expandable", "without"), zip(*shares, strict=True), strict=True):
        print(f"{name}: median share {statistics.median(values):.2f}, from {min(values):.2f} to {max(values):.2f}")


if __name__ == "__main__":
    main()
