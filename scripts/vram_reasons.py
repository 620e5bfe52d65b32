"""Reasons why another program's run may be off: what was changed to check it, and where that is read.

A reason is one mechanism that the program's own code or configuration shows. It is checked by modelling that one thing:
what is left of the error is the rest that it does not explain. A bound is weaker: the published row lacks what decides,
and the bound tells what it would have to be. Nothing is fitted to a row.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from statistics import median

from lorafit.plan.allocator import Event, replay
from lorafit.plan.layers import Layer
from lorafit.plan.listed import with_listed_experts
from lorafit.plan.memory import CONTEXT_BYTES, estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.stack import Stack
from lorafit.recipe.adapters import Lora

Row = dict[str, str]
NOTES = Path(__file__).parents[1] / "benchmarks"
TRACES = {"litgpt": NOTES / "2026-11-30-vram-litgpt.json", "swift": NOTES / "2026-11-30-vram-swift.json"}
BYTES = {"GB": 1e9, "GiB": 2**30}


@dataclass(frozen=True)
class Case:
    """A run as it is answered: by the estimate, by the estimate and something beside, or by a trace of its own code."""

    row: Row
    question: MemoryQuestion
    beside_bytes: int = 0
    traced_bytes: int | None = None

    @cached_property
    def bytes(self) -> int:
        """What tensors take where that was measured; else what torch reserves, or for want of a word, as well."""
        if self.traced_bytes is not None:
            return self.traced_bytes
        answer = estimate(self.question)
        reserved = 0 if self.row["measured_kind"] == "allocated" else answer.reserved_bytes
        return answer.peak_bytes + reserved + self.beside_bytes

    @property
    def error(self) -> float:
        """As a share of what was measured."""
        return self.bytes / measured_bytes(self.row) - 1


Change = Callable[[Case], Case]
Holds = Callable[[Row], bool]


@dataclass(frozen=True)
class Reason:
    """One mechanism that may be it, where that is read, the rows it may hold for, and the change that checks it."""

    text: str
    source: str
    holds: Holds
    change: Change


@dataclass(frozen=True)
class Bound:
    """What a row that lacks the deciding setting would need; `tell` says it in words, "" where it does not hold."""

    text: str
    source: str
    holds: Holds
    tell: Callable[[Case], str]


@dataclass(frozen=True)
class Program:
    """Another program: what answers for it."""

    source: str  # how the column begins
    name: str
    nearest: str
    stack: Stack | None
    reasons: tuple[Reason, ...] = field(default=())
    bounds: tuple[Bound, ...] = field(default=())


def measured_bytes(row: Row) -> int:
    """Give the published figure in bytes."""
    return round(float(row["measured_gb"]) * BYTES[row["unit"]])


def row_key(row: Row) -> str:
    """Tell a published row from others: by where it stands, what ran, and what it showed."""
    parts = ("source", "model", "method", "rank", "target_modules", "seq_len", "micro_batch", "grad_ckpt", "attention")
    return " | ".join([*(row[part] for part in parts), row["measured_gb"]])


def run_key(row: Row) -> str:
    """Tell runs apart as far as lengths matter: rank and targets, and a mask of one row's, make next to nothing."""
    method = "qlora" if row["method"] == "qlora" else "full" if row["method"] == "full" else "lora"
    kept = ", nothing recomputed" if row["grad_ckpt"] == "false" else ""
    packed = ", packed" if "packing" in row["method"] else ""
    return f"{row['model']} {method} {row['micro_batch']} x {row['seq_len'].strip('<=')}{kept}{packed}"


@cache
def traces(name: str) -> dict[str, dict[str, object]]:
    """Give what was traced of a program's own code, by row."""
    found: dict[str, dict[str, object]] = json.loads(TRACES[name].read_text(encoding="utf-8"))
    return found


# --- which rows


def is_run(method: str, *models: str) -> Holds:
    """Rows of a method, and of these models where there are any."""
    return lambda row: row["method"] == method and (not models or row["model"] in models)


def noted(text: str) -> Holds:
    """Rows whose notes say so."""
    return lambda row: text in row["notes"]


def of_source(*texts: str) -> Holds:
    """Rows whose source has one of these in it."""
    return lambda row: any(text in row["source"] for text in texts)


def traced_as(name: str, answer: str) -> Holds:
    """Rows of which a trace has this answer."""
    return lambda row: answer in traces(name).get(row_key(row), {}) or answer in traces(name).get(run_key(row), {})


# --- changes


def stack(**changes: object) -> Change:
    """Train as transformers otherwise can."""

    def changed(case: Case) -> Case:
        assert case.question.stack
        found = case.question.stack._replace(**changes)  # type: ignore[arg-type]
        return replace(case, question=replace(case.question, stack=found))

    return changed


def asked(**changes: object) -> Change:
    """Ask for another setting."""
    return lambda case: replace(case, question=replace(case.question, **changes))  # type: ignore[arg-type]


def both(*changes: Change) -> Change:
    """Make several changes that are one setting of the program's."""

    def changed(case: Case) -> Case:
        for change in changes:
            case = change(case)
        return case

    return changed


def by_trace(name: str, answer: str) -> Change:
    """Answer by a trace of the program's own code."""

    def changed(case: Case) -> Case:
        found = traces(name).get(row_key(case.row)) or traces(name)[run_key(case.row)]
        size = found[answer]
        assert isinstance(size, int)
        return replace(case, traced_bytes=size)

    return changed


ALIKE = 0.10  # of the middle one


def drawn_alike(row: Row) -> bool:
    """Rows whose replays over many lengths agree, whatever the order of those: of the rest one alone says little."""
    draws = traces("swift").get(run_key(row), {}).get("draws")
    if not isinstance(draws, list):
        return False
    return all(abs(draw / median(draws) - 1) <= ALIKE for draw in draws)


def over_lengths(case: Case) -> Case:
    """Answer by the middle one of the replays over rows of many lengths."""
    draws = traces("swift")[run_key(case.row)]["draws"]
    assert isinstance(draws, list)
    return replace(case, traced_bytes=round(median(draws)))


def with_context(case: Case) -> Case:
    """Read off the card: a CUDA context is in it, as large as the estimate takes it to be."""
    traced = None if case.traced_bytes is None else case.traced_bytes + CONTEXT_BYTES
    return replace(case, beside_bytes=case.beside_bytes + CONTEXT_BYTES, traced_bytes=traced)


def plain_scores(case: Case) -> Case:
    """Attention by a kernel where transformers writes scores out."""
    return _layers(case, lambda layer: layer._replace(attention=layer.attention._replace(scores="plain")))


def compiled_norms(case: Case) -> Case:
    """A norm in one kernel keeps its input as it is, as torch's own LayerNorm does, and no float32 copy of it."""
    return _layers(case, lambda layer: layer._replace(norm="layer"))


def _layers(case: Case, change: Callable[[Layer], Layer]) -> Case:
    shape = case.question.shape
    made = {layer: change(layer) for layer in set(shape.layers)}
    return asked(shape=replace(shape, layers=tuple(made[each] for each in shape.layers)))(case)


def packed_experts(bits: int) -> Change:
    """Put stacked experts in 4 or 8 bits; those of one layer are unpacked whole while it is at work."""

    def changed(case: Case) -> Case:
        shape = case.question.shape
        layer = max(each.mlp.experts.parameters for each in shape.layers if each.mlp.experts)
        found = replace(case, beside_bytes=case.beside_bytes + 2 * layer)
        if bits == 4:
            return asked(shape=with_listed_experts(shape))(found)
        return replace(found, beside_bytes=found.beside_bytes - shape.expert_parameters)

    return changed


def read_before_packed(case: Case) -> Case:
    """Have every weight on the card as it is stored, in 16 bits, before any is packed."""
    return replace(case, traced_bytes=max(case.bytes, 2 * case.question.shape.total_parameters))


def nothing_trained(case: Case) -> Case:
    """Freeze all: gradients pass through to no weight; an adapter of rank 1 is the least that can be asked for."""
    return asked(adapter=Lora(rank=1, target_modules=["q_proj"]))(case)


def zero_two(case: Case) -> Case:
    """A step of DeepSpeed's ZeRO-2 on one card, replayed: full fine-tuning of Qwen, whose loss is in float32."""
    return replace(case, traced_bytes=replay(_zero_two_events(case.question)).peak_reserved + CONTEXT_BYTES)


BUCKET = 200_000_000  # values: `reduce_bucket_size`, of which `overlap_comm` has two


def _zero_two_events(question: MemoryQuestion) -> list[Event]:
    trained, shape, tokens = estimate(question).trainable_parameters, question.shape, question.tokens
    logits = 2 * shape.vocab_size * tokens
    events: list[Event] = []

    def new(size: int) -> int:
        events.append((len(events), size))
        return len(events) - 1

    def free(*tensors: int) -> None:
        events.extend((tensor, 0) for tensor in tensors)

    for size in (2 * trained, 4 * trained, 2 * BUCKET, 2 * BUCKET):  # weights, their float32 masters, buckets
        new(size)
    matrices = [shape.vocab_size * shape.hidden_size] * 2 + [layer.parameters for layer in shape.layers]
    for step in range(2):
        inputs = [new(2 * tokens * shape.hidden_size) for _ in shape.layers]
        made, shifted, wide, softmax = new(logits), new(logits), new(2 * logits), new(2 * logits)
        free(wide, shifted)
        outputs = new(2 * logits)
        free(made, outputs)
        first, second = new(2 * logits), new(2 * logits)
        free(first, softmax)
        narrow = new(logits)
        free(second, narrow, *inputs)
        gradients = [new(2 * size) for size in matrices]
        flat, master = new(2 * trained), new(4 * trained)  # flattened in 16 bits, then taken to float32
        free(flat, *gradients)
        if not step:
            new(4 * trained), new(4 * trained)
        free(master)
    return events
