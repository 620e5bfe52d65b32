"""Set estimates beside every published single-GPU measurement that names a model: `benchmarks/*-vram-published.md`.

    python -m scripts.vram_published MEASURED.csv > benchmarks/2026-11-25-vram-published.md

It takes some minutes: what torch reserved is replayed from traces (`scripts/vram_replay.py`).

A run of plain transformers with all settings known is answered as it was run. What another program did is answered by
the nearest configuration there is; where that is off by more than a tenth, each reason is checked by changing the one
setting that it names. Nothing is fitted to a row.
"""

import csv
import random
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorafit.plan.cards import find_card
from lorafit.plan.memory import CONTEXT_BYTES, estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.plan.stack import Stack
from lorafit.recipe.adapters import Lora
from lorafit.recipe.quantization import Unquantized
from scripts.vram_accuracy import BYTES, Compared, compared, is_specified, question_of
from scripts.vram_programs import PROGRAMS, SWIFT, Program, question_for

OFF = 0.10


@dataclass(frozen=True)
class Row:
    """A published figure beside the nearest answer."""

    label: str
    kind: str
    measured_bytes: int
    estimated_bytes: int
    told: tuple[str, ...] = ()  # the reasons that brought the answer nearer, with what each left
    rest: float = 0.0  # the error after the last of them

    @property
    def verdict(self) -> str:
        """What becomes of an error of more than a tenth."""
        if abs(self.error) <= OFF:
            return ""
        last = "" if abs(self.rest) <= OFF else "unexplained"
        return "; ".join([*self.told, last] if last else self.told)

    @property
    def error(self) -> float:
        """As a share of what was measured."""
        return self.estimated_bytes / self.measured_bytes - 1


def measured_bytes(row: dict[str, str]) -> int:
    """Give the published figure in bytes."""
    return round(float(row["measured_gb"]) * BYTES[row["unit"]])


def others(rows: list[dict[str, str]], program: Program) -> list[Row]:
    """Answer a program's rows on one card."""
    found = []
    for row in rows:
        single = row["gpus"].startswith("1x") or row["gpus"] == "1"
        question = question_for(row, program) if row["source"].startswith(program.source) and single else None
        if question is not None:
            label = f"{row['model']} {row['method']} {row['micro_batch']} x {question.max_length}"
            first = Row(label, row["measured_kind"], measured_bytes(row), _answer(row, question))
            found.append(_checked(first, row, question, program))
    return found


def _answer(row: dict[str, str], question: MemoryQuestion) -> int:
    """What tensors take where that was measured; else what torch reserves, or for want of a word about it, as well."""
    answer = estimate(question)
    return answer.peak_bytes + (0 if row["measured_kind"] == "allocated" else answer.reserved_bytes)


def _checked(row: Row, source: dict[str, str], question: MemoryQuestion, program: Program) -> Row:
    """Change one setting after another, as far as each brings the answer nearer to what was measured."""
    nearest, told = row, []
    for reason in program.reasons if abs(row.error) > OFF else ():
        changed = reason.change(question) if reason.holds(source) else question
        found = replace(row, estimated_bytes=_answer(source, changed))
        if abs(found.error) < abs(nearest.error):
            question, nearest = changed, found
            told.append(f"{reason.text}: {found.error:+.1%}")
    return replace(row, told=tuple(told), rest=nearest.error)


def by_rule(model: str, question: MemoryQuestion) -> int:
    """Give what torch reserves as the estimate says it: holes are a share of what comes and goes."""
    del model
    answer = estimate(question)
    return answer.peak_bytes + answer.reserved_bytes


def by_replay(model: str, question: MemoryQuestion) -> int:
    """Give what torch reserves by a trace of the step, replayed on the card that all these runs had."""
    from scripts.vram_replay import replayed

    return replayed(model, question, find_card("a100-80gb").capacity_bytes - CONTEXT_BYTES)[1]


def on_card(rows: list[dict[str, str]], reserved: Callable[[str, MemoryQuestion], int]) -> dict[str, list[Row]]:
    """Answer the runs of plain transformers that nvidia-smi was read of, by environment, without any constant."""
    found = defaultdict(list)
    for row in rows:
        single = row["gpus"].startswith("1x") and is_specified(row | {"measured_kind": "allocated"})
        if row["measured_kind"] != "nvidia-smi" or not single:
            continue
        question = question_of(row)
        if question is not None:
            size = reserved(row["model"], question)
            environment = ", ".join(re.findall(r"(?:torch|transformers|peft) [\d.]+", row["notes"])[:3])
            label = f"{row['model']} {row['method']} {row['micro_batch']} x {question.max_length}"
            found[environment].append(Row(label, "nvidia-smi", measured_bytes(row), size))
    return found


def with_constant(rows: list[Row]) -> tuple[int, list[Row]]:
    """Add to all what half of them lack: the context and what torch's allocator of that version leaves unused."""
    constant = round(statistics.median(row.measured_bytes - row.estimated_bytes for row in rows))
    return constant, [replace(row, estimated_bytes=row.estimated_bytes + constant) for row in rows]


def _summary(name: str, errors: Iterable[float]) -> str:
    signed = sorted(errors)
    sizes = sorted(abs(each) for each in signed)
    off = sum(each > 0.10 for each in sizes)
    middle = statistics.median(signed)
    return f"| {name} | {len(signed)} | {middle:+.1%} | {statistics.median(sizes):.1%} | {sizes[-1]:.1%} | {off} |"


HEAD = "| runs | number | median error | its median size | worst | off by > 10 % |\n|---|--:|--:|--:|--:|--:|"
LIST = "| run | measured GB | estimated GB | error |\n|---|--:|--:|--:|"
CHECKED = "| run | measured GB | estimated GB | error | checked |\n|---|--:|--:|--:|---|"


def _listed(rows: Iterable[Row | Compared]) -> str:
    lines = []
    for row in rows:
        label = row.label if isinstance(row, Row) else row.run
        lines.append(
            f"| {label} | {row.measured_bytes / 1e9:.2f} | {row.estimated_bytes / 1e9:.2f} | {row.error:+.1%} |"
        )
    return "\n".join([LIST, *lines])


def _with_reasons(rows: Iterable[Row]) -> str:
    lines = [CHECKED]
    for row in rows:
        sizes = f"{row.measured_bytes / 1e9:.2f} | {row.estimated_bytes / 1e9:.2f} | {row.error:+.1%}"
        lines.append(f"| {row.label} ({row.kind}) | {sizes} | {row.verdict} |")
    return "\n".join(lines)


# Qwen-7B as transformers' own classes build it: what ms-swift trained had code of its own
QWEN_7B: dict[str, object] = {
    "model_type": "llama", "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 11_008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "attention_bias": True,
}  # fmt: skip


def by_lengths() -> list[str]:
    """Check the reason that would be everybody's first: rows of many lengths leave holes."""
    from scripts.vram_replay import over_lengths

    shape = shape_from_config(QWEN_7B, "Qwen-7B")
    adapter = Lora(rank=8, target_modules=["q_proj", "k_proj", "v_proj"])
    question = MemoryQuestion(
        shape, adapter, Unquantized(), accumulation=False, stack=Stack((4, 38), kernel="flash_attention_2")
    )
    draw = random.Random(1)
    lengths = [256 * draw.randint(1, 8) for _ in range(24)]
    one, many = over_lengths(QWEN_7B, question, lengths)
    return [
        "Rows of many lengths are no more than a part of it. The step of a Qwen-7B, replayed through torch's allocator "
        f"at 24 random lengths up to 2,048 reserves {many / 1e9:.1f} GB, at 2,048 alone {one / 1e9:.1f}, of 29.8.",
        "",
    ]


def _program(program: Program, found: list[Row]) -> list[str]:
    off = [row for row in found if abs(row.error) > OFF]
    closed = sum(abs(row.rest) <= OFF for row in off)
    reasons = [f"- {reason.text} ({reason.source})" for reason in program.reasons]
    return [
        f"**{program.name}**, answered by {program.nearest}: {len(found)} runs, {len(off)} off by more than 10 %, of "
        f"which {closed} close to 10 % by a reason that was checked, and {len(off) - closed} do not.",
        "",
        *reasons,
        *([""] if reasons else []),
        _with_reasons(found),
        "",
    ]


def report(
    rows: list[dict[str, str]], reserved: Callable[[str, MemoryQuestion], int], checks: Sequence[str] = ()
) -> str:
    """Write the note; `checks` are further words on ms-swift."""
    allocated = list(compared(rows))
    cards = {name: with_constant(each) for name, each in on_card(rows, reserved).items()}
    programs = [(program, found) for program in PROGRAMS if (found := others(rows, program))]
    lines = [
        "# Estimates beside published measurements",
        "",
        "2026-11-25, `python -m scripts.vram_published MEASURED.csv`. Nothing in the memory model is fitted to a row.",
        "",
        HEAD,
        _summary("plain transformers, one card, allocated", (each.error for each in allocated if each.gpus == 1)),
        _summary(
            "plain transformers, two cards (FSDP), allocated", (each.error for each in allocated if each.gpus > 1)
        ),
        *(
            _summary(f"the same, nvidia-smi ({name})", (row.error for row in found))
            for name, (_, found) in cards.items()
        ),
        *(_summary(program.name, (row.error for row in found)) for program, found in programs),
        "",
        "## nvidia-smi",
        "",
        "The step of plain transformers traced without a card and replayed through a model of torch's allocator, with",
        "one constant for each environment: the median of what its own runs lack, which stands for the CUDA context.",
        "The one run that is off by 11 % fills the card: it runs out of memory, what is free goes back, and what is",
        "held after that is read, not the most that was held before.",
        "",
    ]
    for name, (constant, found) in cards.items():
        lines += [f"{name}: {constant / 2**30:.2f} GiB", "", _listed(found), ""]
    lines += ["## Other programs", ""]
    for program, found in programs:
        lines += _program(program, found)
        lines += checks if program is SWIFT else []
    return "\n".join([*lines, "## Plain transformers, allocated", "", _listed(allocated)])


def main() -> None:
    """Print the note."""
    with Path(sys.argv[1]).open(encoding="utf-8", newline="") as lines:
        print(report(list(csv.DictReader(lines)), by_replay, by_lengths()))


if __name__ == "__main__":
    main()
