"""Set estimates beside every published single-GPU measurement that names a model: `benchmarks/*-vram-published.md`.

    python -m scripts.vram_published MEASURED.csv > benchmarks/2026-11-25-vram-published.md

It takes some minutes: what torch reserved is replayed from traces (`scripts/vram_replay.py`).

A run of plain transformers with all settings known is answered as it was run. What another program did is answered by
the nearest configuration that lorafit has, and the table says why the two differ. Nothing is fitted to a row.
"""

import csv
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lorafit.errors import LorafitError
from lorafit.plan.cards import find_card
from lorafit.plan.find_shape import find_shape
from lorafit.plan.memory import CONTEXT_BYTES, estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.stack import OLDEST, Stack
from lorafit.recipe.adapters import Adapter, Full, Lora
from lorafit.recipe.optimizers import OptimizerName
from lorafit.recipe.quantization import Nf4, Quantization, Unquantized
from scripts.vram_accuracy import BYTES, Compared, compared, is_specified, question_of

# lorafit trains all weights in float32; others do it in 16 bits, as transformers does without AMP
IN_16_BITS = Stack(amp=False)
METHODS = ("full", "lora", "qlora")
LEAVES = {
    "query": ["q_proj"], "key": ["k_proj"], "value": ["v_proj"], "projection": ["o_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"], "head": [], "output_proj": ["o_proj"],
}  # fmt: skip


@dataclass(frozen=True)
class Program:
    """Another program: by what lorafit answers for it, and why that differs."""

    source: str  # how the column begins
    name: str
    nearest: str
    stack: Stack | None
    why: str
    full_logits: bool = False


PROGRAMS = (
    Program(
        "Lightning-AI/litgpt", "litgpt", "lorafit, all logits at once", None,
        "own model code without recomputation, adapters in 16 bits, and a trained head in some configurations; all of "
        "its QLoRA figures are near two bytes a weight, as if the peak were the base before it is quantised; full "
        "fine-tuning was done on several cards although the table says one",
        full_logits=True,
    ),
    Program(
        "QwenLM/Qwen", "Qwen README", "transformers 4.38 with AMP, the oldest modelled",
        Stack(OLDEST, kernel="flash_attention_2"),
        "transformers of 2023 (4.32) with the model's own remote code; whether the figure is allocated or reserved is "
        "not said",
    ),
    Program(
        "modelscope/ms-swift", "ms-swift", "transformers 4.38 with AMP, rows of the full length",
        Stack(OLDEST, kernel="flash_attention_2"),
        "reserved, over rows of every length up to the one named: each new length leaves holes; remote code",
    ),
    Program(
        "pytorch/torchtune", "torchtune", "lorafit", None,
        "torch.compile, own model code, an optimizer step within the backward for full fine-tuning",
    ),
    Program(
        "axolotl-ai-cloud", "Axolotl", "lorafit", None,
        "'about', from READMEs; mixtures of experts and vision towers beside the text model; fused losses",
    ),
    Program(
        "huggingface/peft method", "PEFT MetaMathQA", "transformers 5.23, no AMP, four rows of 768 tokens",
        Stack(amp=False),
        "reserved over the whole process, with generation of 50 answers at once and outputs kept alive; rows padded to "
        "the longest of a batch, which has no more than about 730 tokens",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A published figure beside the nearest answer."""

    label: str
    kind: str
    measured_bytes: int
    estimated_bytes: int

    @property
    def error(self) -> float:
        """As a share of what was measured."""
        return self.estimated_bytes / self.measured_bytes - 1


def measured_bytes(row: dict[str, str]) -> int:
    """Give the published figure in bytes."""
    return round(float(row["measured_gb"]) * BYTES[row["unit"]])


def nearest(row: dict[str, str], program: Program) -> MemoryQuestion | None:
    """Ask what comes nearest to a run of another program; None where its model or settings are not known."""
    length = re.search(r"\d+", row["seq_len"])
    if row["method"] not in METHODS or not length or not row["micro_batch"].isdigit():
        return None
    try:
        shape = find_shape(row["model"]).shape
        question = MemoryQuestion(
            shape=shape,
            adapter=_adapter(row, {linear.name.rsplit(".", 1)[-1] for linear in shape.linears()}),
            quantization=_quantization(row),
            optimizer=_optimizer(row["optimizer"]),
            max_length=int(length[0]),
            micro_batch_size=int(row["micro_batch"]),
            checkpointing=row["grad_ckpt"] == "true",
            stack=IN_16_BITS if row["method"] == "full" and program.stack is None else program.stack,
            full_logits=program.full_logits,
        )
        estimate(question)
    except (LorafitError, ValueError):
        return None
    return question


def _quantization(row: dict[str, str]) -> Quantization:
    """litgpt calls doubly quantised scales `nf4-dq`."""
    if row["method"] != "qlora":
        return Unquantized()
    return Nf4(double_quant=not row["dtype"].endswith("bnb.nf4"))


def _optimizer(name: str) -> OptimizerName:
    paged, eight = "paged" in name.lower(), "8bit" in name.lower() or "8-bit" in name.lower()
    if paged:
        return "paged_adamw_8bit" if eight else "paged_adamw"
    return "adamw_8bit" if eight else "adamw"


def _adapter(row: dict[str, str], known: set[str]) -> Adapter:
    if row["method"] == "full":
        return Full()
    named = re.findall(r"[a-z_0-9]+", row["target_modules"])
    leaves = [leaf for name in named for leaf in LEAVES.get(name, [name]) if leaf in known]
    if "fused qkv" in row["target_modules"]:
        leaves = [leaf for leaf in ("c_attn", "query_key_value", "q_proj", "k_proj", "v_proj") if leaf in known]
    return Lora(rank=int(row["rank"]), target_modules=list(dict.fromkeys(leaves)) or "all-linear")


def others(rows: list[dict[str, str]], program: Program) -> list[Row]:
    """Answer a program's rows on one card."""
    found = []
    for row in rows:
        single = row["gpus"].startswith("1x") or row["gpus"] == "1"
        question = nearest(row, program) if row["source"].startswith(program.source) and single else None
        if question is not None:
            answer = estimate(question)
            holes = 0 if row["measured_kind"] == "allocated" else answer.reserved_bytes
            label = f"{row['model']} {row['method']} {row['micro_batch']} x {question.max_length}"
            found.append(Row(label, row["measured_kind"], measured_bytes(row), answer.peak_bytes + holes))
    return found


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
        if row["measured_kind"] != "nvidia-smi" or not is_specified(row | {"measured_kind": "allocated"}):
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


def _listed(rows: Iterable[Row | Compared]) -> str:
    lines = []
    for row in rows:
        label = row.label if isinstance(row, Row) else row.run
        lines.append(
            f"| {label} | {row.measured_bytes / 1e9:.2f} | {row.estimated_bytes / 1e9:.2f} | {row.error:+.1%} |"
        )
    return "\n".join([LIST, *lines])


def report(rows: list[dict[str, str]], reserved: Callable[[str, MemoryQuestion], int]) -> str:
    """Write the note."""
    allocated = list(compared(rows))
    cards = {name: with_constant(each) for name, each in on_card(rows, reserved).items()}
    programs = [(program, found) for program in PROGRAMS if (found := others(rows, program))]
    lines = [
        "# Estimates beside published measurements",
        "",
        "2026-11-25, `python -m scripts.vram_published MEASURED.csv`. One card; nothing in the memory model is",
        "fitted to a row.",
        "",
        HEAD,
        _summary("plain transformers, allocated", (each.error for each in allocated)),
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
        lines += [
            f"**{program.name}**, answered by {program.nearest}. Why it differs: {program.why}.",
            "",
            _listed(found),
            "",
        ]
    return "\n".join([*lines, "## Plain transformers, allocated", "", _listed(allocated)])


def main() -> None:
    """Print the note."""
    with Path(sys.argv[1]).open(encoding="utf-8", newline="") as lines:
        print(report(list(csv.DictReader(lines)), by_replay))


if __name__ == "__main__":
    main()
