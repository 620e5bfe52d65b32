"""Set estimates beside every published single-GPU measurement that names a model: `benchmarks/*-vram-published.md`.

    python -m scripts.vram_published MEASURED.csv > benchmarks/2026-11-30-vram-published.md

It takes some minutes: what torch reserved is replayed from traces (`scripts/vram_replay.py`).

A run of plain transformers with all settings known is answered as it was run. What another program did is answered by
the nearest configuration there is; where that is off by more than a tenth, each reason is checked by modelling the one
mechanism that it names (`scripts/vram_programs.py`). A row that lacks the setting which decides has a bound in place of
a reason: what it would need. Nothing is fitted to a row.
"""

import csv
import re
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lorafit.plan.cards import find_card
from lorafit.plan.memory import CONTEXT_BYTES, estimate
from lorafit.plan.question import MemoryQuestion
from scripts.vram_accuracy import Compared, compared, is_specified, question_of
from scripts.vram_programs import PROGRAMS, question_for
from scripts.vram_reasons import Case, Program, measured_bytes, traces

OFF = 0.10
LETTERS = "abcdefgh"  # by which a table names reasons
STATES = ("explained", "bounded", "unexplained")


@dataclass(frozen=True)
class Row:
    """A published figure beside the nearest answer."""

    label: str
    kind: str
    measured_bytes: int
    estimated_bytes: int
    told: tuple[str, ...] = ()  # the reasons that brought the answer nearer, by letter, with what each left
    rest: float = 0.0  # the error after the last of them
    bound: str = ""  # what the row would need, where its own settings do not decide

    @property
    def state(self) -> str:
        """Close, or what becomes of an error of more than a tenth."""
        if abs(self.error) <= OFF:
            return ""
        if abs(self.rest) <= OFF:
            return "explained"
        return "bounded" if self.bound else "unexplained"

    @property
    def verdict(self) -> str:
        """Say it, with the reasons."""
        if not self.state:
            return ""
        last = {"explained": "", "bounded": f"bounded: {self.bound}", "unexplained": "unexplained"}[self.state]
        return "; ".join([*self.told, last] if last else self.told)

    @property
    def error(self) -> float:
        """As a share of what was measured."""
        return self.estimated_bytes / self.measured_bytes - 1


def others(rows: list[dict[str, str]], program: Program) -> list[Row]:
    """Answer a program's rows on one card."""
    found = []
    for row in rows:
        single = row["gpus"].startswith("1x") or row["gpus"] == "1"
        question = question_for(row, program) if row["source"].startswith(program.source) and single else None
        if question is not None:
            found.append(_checked(Case(row, question), program))
    return found


def _checked(case: Case, program: Program) -> Row:
    """Model one mechanism after another, as far as each brings the answer nearer to what was measured."""
    row, first, told = case.row, case, []
    for letter, reason in zip(LETTERS, program.reasons, strict=False) if abs(case.error) > OFF else ():
        if reason.holds(row) and abs((changed := reason.change(case)).error) < abs(case.error):
            case = changed
            told.append(f"{letter} {case.error:+.1%}")
    bounds = [bound.tell(case) for bound in program.bounds if bound.holds(row)] if abs(case.error) > OFF else []
    return Row(
        f"{row['model']} {row['method']} {row['micro_batch']} x {first.question.max_length}",
        row["measured_kind"],
        measured_bytes(row),
        first.bytes,
        tuple(told),
        case.error,
        next((bound for bound in bounds if bound), ""),
    )


def by_rule(model: str, question: MemoryQuestion) -> int:
    """Give what torch reserves as the estimate says it: holes are a share of what comes and goes."""
    del model
    answer = estimate(question)
    return answer.peak_bytes + answer.reserved_bytes


def by_replay(model: str, question: MemoryQuestion) -> int:
    """Give what torch reserves by a trace of the step, replayed on the card that all these runs had."""
    from scripts.vram_replay import replayed

    return replayed(model, question, find_card("a100-80gb").capacity_bytes - CONTEXT_BYTES)[1]


def by_own_code() -> list[float]:
    """Give the errors of litgpt's one-card rows by a trace of its own code, those that the estimate cannot answer too.

    Of a row whose targets are not known, the answer that its bound names.
    """
    found = []
    for key, answered in traces("litgpt").items():
        sizes = [size for name, size in answered.items() if name not in ("states alone", "cards", "split")]
        if sizes and isinstance(sizes[-1], int):
            found.append(sizes[-1] / (float(key.rpartition(" | ")[2]) * 1e9) - 1)
    return found


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


def _program(program: Program, found: list[Row]) -> list[str]:
    states = Counter(row.state for row in found if row.state)
    counts = ", ".join(f"{states[state]} {state}" for state in STATES)
    reasons = [
        f"- {letter}: {each.text} ({each.source})" for letter, each in zip(LETTERS, program.reasons, strict=False)
    ]
    bounds = [f"- bound: {each.text} ({each.source})" for each in program.bounds]
    return [
        f"**{program.name}**, answered by {program.nearest}: {len(found)} runs, {sum(states.values())} off by more "
        f"than 10 %, of which {counts}.",
        "",
        *reasons,
        *bounds,
        "",
        _with_reasons(found),
        "",
    ]


def _counts(programs: list[tuple[Program, list[Row]]]) -> list[str]:
    lines = ["| program | runs | within 10 % | explained | bounded | unexplained |", "|---|--:|--:|--:|--:|--:|"]
    total: Counter[str] = Counter()
    for program, found in programs:
        states = Counter(row.state for row in found)
        total += states
        lines.append(_count(program.name, states))
    return [*lines, _count("all", total)]


def _count(name: str, states: Counter[str]) -> str:
    cells = [states.total(), states[""], *(states[state] for state in STATES)]
    return " | ".join([f"| {name}", *map(str, cells)]) + " |"


def answers(rows: list[dict[str, str]]) -> dict[str, list[Row]]:
    """Answer every program's rows, by its name."""
    return {program.name: found for program in PROGRAMS if (found := others(rows, program))}


def report(
    rows: list[dict[str, str]],
    answered: dict[str, list[Row]],
    reserved: Callable[[str, MemoryQuestion], int],
) -> str:
    """Write the note."""
    allocated = list(compared(rows))
    cards = {name: with_constant(each) for name, each in on_card(rows, reserved).items()}
    programs = [(program, answered[program.name]) for program in PROGRAMS if program.name in answered]
    lines = [
        "# Estimates beside published measurements",
        "",
        "2026-11-30, `python -m scripts.vram_published MEASURED.csv`. Nothing in the memory model is fitted to a row.",
        "",
        *STATES_TOLD,
        "",
        *_counts(programs),
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
        _summary("litgpt, one card, its own code traced", by_own_code()),
        *(_summary(f"{program.name}, with its reasons", (row.rest for row in found)) for program, found in programs),
        "",
        "## nvidia-smi",
        "",
        *NVIDIA_SMI,
        "",
    ]
    for name, (constant, found) in cards.items():
        lines += [f"{name}: {constant / 2**30:.2f} GiB", "", _listed(found), ""]
    lines += ["## Other programs", "", *TRACED, ""]
    for program, found in programs:
        lines += _program(program, found)
    return "\n".join([*lines, "## Plain transformers, allocated", "", _listed(allocated)])


STATES_TOLD = (
    "Of other programs' runs that are off by more than 10 %, *explained* are those that one or more mechanisms of the",
    "program bring within 10 %, each modelled, with its source or a trace; *bounded* are those whose row lacks the",
    "setting that decides: what it would have to be is told, which is no proof. The rest is *unexplained*.",
)
NVIDIA_SMI = (
    "The step of plain transformers traced without a card and replayed through a model of torch's allocator, with one",
    "constant for each environment: the median of what its own runs lack, which stands for the CUDA context. What is",
    "held in the third step stands for a run, as in every step after it: the benchmark asked nvidia-smi once a second",
    "through a hundred steps of up to ten seconds, and kept the most (foundation-model-stack/fms-acceleration,",
    "scripts/benchmarks/benchmark.py@0055a36). In one run that is not the most there was: the full one of 8 x 4096",
    "fills its card once, in the loss of the second step, gives back what is free, and never holds as much again. Had",
    "that been read, it would have shown a tenth more. What is held after it hangs on where single blocks",
    "lie when it happens. So does how many of three float32 logits find a free block in the full run of 4 x 4096: one",
    "of them, 2.1 GB, is what that row lacks.",
)
TRACED = (
    "What was traced of a program's own code: [litgpt](2026-11-30-vram-litgpt.json) (`scripts/vram_litgpt.py`) and",
    "[ms-swift](2026-11-30-vram-swift.json) (`scripts/vram_swift.py`). Sources are named as repository,",
    "path@commit, or as a wheel. Each reason is added to those before it, where it brings the answer nearer; after its",
    "letter stands the error that is left. By litgpt's own code one row is off by more than 1.6 %: Falcon, two rows a",
    "pass, of which its table has the same figure as of one. The packed run of ms-swift lacks 6.2 GB, as much as five",
    "float32 logits; replayed in vain were 3,000 passes with any number of answers (22.1 GB) and short rows among full",
    "ones (21.4 GB).",
)


def main() -> None:
    """Print the note."""
    with Path(sys.argv[1]).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    print(report(rows, answers(rows), by_replay))


if __name__ == "__main__":
    main()
