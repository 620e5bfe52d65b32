"""Set the estimate against the traced step over random models and settings; say how far apart, and in which part.

    python scripts/vram_agreement.py --results FILE --count 500 [--seed 7] [--from 0] [--seconds 200]
    python scripts/vram_agreement.py --results FILE --table benchmarks/2026-11-30-vram-agreement.md
    python scripts/vram_agreement.py --explain 17

A trace is written to FILE (one JSON object a line) as it is made and never made twice; the estimate is made anew for
each, so that a change to the model of memory shows at once. `--renew TEXT` traces again what has TEXT in its setting.
"""

import argparse
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lorafit.errors import LorafitError
from lorafit.model.trace_depth import exact
from lorafit.plan.exact import Exact
from lorafit.plan.memory import Estimate, estimate
from lorafit.train.trace import fake_optimizer
from scripts.spread import Spread, relative_error
from scripts.vram_draw import Drawn, drawn
from scripts.vram_notes import NOTES

MIB = 2**20
WORST = 25


@dataclass(frozen=True)
class Agreement:
    """One configuration and both answers; `refused` says why there is no trace."""

    index: int
    drawn: Drawn
    estimate: Estimate
    exact_bytes: int = 0
    exact_phase: str = ""
    refused: str = ""

    @property
    def error(self) -> float:
        """Of the estimate, as a share of the traced peak."""
        return relative_error(self.estimate.peak_bytes, self.exact_bytes)

    def __str__(self) -> str:
        return (
            f"{self.index:4d} {100 * self.error:+7.2f} % {self.exact_bytes / MIB:10.1f} MiB {self.drawn.setting}: "
            f"{self.exact_phase} | {self.estimate.peak_phase}"
        )


def traced(asked: Drawn) -> Exact:
    """Trace the step. Raises ModelError where this cannot be done."""
    return exact(asked.question, asked.config, fake_optimizer)


def agreement(seed: int, index: int) -> Agreement:
    """Answer one drawn question in both ways."""
    return _agreement(index, drawn(seed, index), _row(seed, index))


def agreements(seed: int, numbers: Iterable[int]) -> Iterator[Agreement]:
    """Answer many, each in a process: torch has crashed as it collected a trace. BrokenProcessPool where one dies."""
    for index in numbers:
        with ProcessPoolExecutor(1, get_context("fork")) as alone:
            yield _agreement(index, drawn(seed, index), alone.submit(_row, seed, index).result())


def _row(seed: int, index: int) -> dict[str, Any]:
    asked, started = drawn(seed, index), time.perf_counter()
    row: dict[str, Any] = {"seed": seed, "index": index, "setting": asked.setting}
    try:
        found = traced(asked)
    except LorafitError as error:
        return row | {"refused": str(error)}
    seconds = round(time.perf_counter() - started, 1)
    return row | {
        "bytes": found.peak_bytes,
        "phase": found.peak_phase,
        "seconds": seconds,
        "versions": dict(found.versions),
        "components": found.components(),
        "phases": {name: moment.total + found.workspace_bytes for name, moment in found.moments.items()},
    }


def _agreement(index: int, asked: Drawn, row: dict[str, Any]) -> Agreement:
    found = estimate(asked.question)
    return Agreement(index, asked, found, row.get("bytes", 0), row.get("phase", ""), row.get("refused", ""))


def read(results: Path, seed: int) -> dict[int, dict[str, Any]]:
    """Give the last trace of each number that still is of the same setting."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    rows = {row["index"]: row for row in map(json.loads, lines) if row["seed"] == seed}
    return {index: row for index, row in rows.items() if row["setting"] == drawn(seed, index).setting}


def collect(results: Path, seed: int, numbers: range, seconds: float, renew: str | None) -> None:
    """Trace what is missing, until the time is up."""
    known, end = read(results, seed), time.monotonic() + seconds
    with results.open("a", encoding="utf-8") as out:
        for index in numbers:
            if time.monotonic() > end:
                return
            wanted = renew is not None and renew in drawn(seed, index).setting
            if index not in known or wanted:
                print(json.dumps(_row(seed, index)), file=out, flush=True)


def seeds_of(results: Path) -> list[int]:
    """Give the seeds that were drawn from."""
    return sorted({json.loads(line)["seed"] for line in results.read_text(encoding="utf-8").splitlines()})


def compared(results: Path, seed: int) -> Iterator[Agreement]:
    """Set the estimate of today against each trace."""
    for index, row in sorted(read(results, seed).items()):
        yield _agreement(index, drawn(seed, index), row)


# --- what is printed


def summary(found: list[Agreement]) -> str:
    """The worst, and the spread."""
    good = [each for each in found if not each.refused]
    worst = _worst(good)[:WORST]
    refused = [f"{each.index:4d} refused: {each.drawn.setting}: {each.refused}" for each in found if each.refused]
    return "\n".join([*map(str, worst), *refused, str(Spread.of(each.error for each in good))])


def table(draws: dict[int, list[Agreement]], versions: dict[str, str]) -> str:
    """Of each seed: errors by family and method, and by what sets a model apart; the worst; what was not traced."""
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = ["# The estimate beside the traced step", "", f"`python scripts/vram_agreement.py`, with {told}.", ""]
    for seed, found in draws.items():
        parts += _section(seed, found)
    return "\n".join([*parts, NOTES])


def _section(seed: int, found: list[Agreement]) -> Iterator[str]:
    good = [each for each in found if not each.refused]
    yield f"## Seed {seed}\n"
    yield f"{len(good)} random models and settings traced of {len(found)} drawn, none picked and none left out: errors"
    yield "of the analytic peak as shares of the traced one.\n"
    yield "| which | method | n | median % | 95th percentile % | worst % |\n|---|---|---|---|---|---|"
    for names in ((_family, _method), (_trait, _all)):
        yield from (_line(name, spread) for name, spread in _spreads(good, *names))
    yield "\nThe worst:\n"
    yield from (f"- {100 * each.error:+.2f} %: {each.drawn.setting}" for each in _worst(good)[:10])
    yield from (f"- not traced: {each.drawn.setting}: {each.refused}" for each in found if each.refused)
    yield ""


def _family(each: Agreement) -> list[str]:
    return ["all", each.drawn.family]


def _method(each: Agreement) -> list[str]:
    return ["all", each.drawn.question.method]


def _all(each: Agreement) -> list[str]:
    del each
    return ["all"]


def _trait(each: Agreement) -> list[str]:
    """What the issue asks about one by one."""
    asked, config = each.drawn.question, each.drawn.config
    shape, adapter = asked.shape, asked.adapter
    keys, heads = config["num_key_value_heads"], config["num_attention_heads"]
    traits = {
        f"{len(shape.layers)} layers": len(shape.layers) in (2, 80),
        "experts": any(layer.mlp.experts for layer in shape.layers),
        "tied": shape.tied,
        "one key head": keys == 1,
        "grouped keys": 1 < keys < heads,
        "dropout": getattr(adapter, "dropout", 0) > 0,
        "eager attention": asked.explicit_attention,
        "recomputed": asked.checkpointing,
        "kept": not asked.checkpointing,
        f"in {asked.dtype}": True,
        each.drawn.kind.partition(":")[0]: bool(each.drawn.kind),
    }
    return [name for name, has in traits.items() if has]


def _worst(found: list[Agreement]) -> list[Agreement]:
    return sorted(found, key=lambda each: -abs(each.error))


def _spreads(
    found: list[Agreement], which: Callable[[Agreement], list[str]], method: Callable[[Agreement], list[str]]
) -> Iterator[tuple[tuple[str, str], Spread]]:
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in found:
        for name in product(which(each), method(each)):
            groups[name].append(each.error)
    for name in sorted(groups):
        yield name, Spread.of(groups[name])


def _line(name: tuple[str, str], spread: Spread) -> str:
    shares = " | ".join(f"{100 * share:.2f}" for share in (spread.median, spread.high, spread.worst))
    return f"| {name[0]} | {name[1]} | {spread.count} | {shares} |"


HELD = ("gradients", "optimizer states", "cuBLAS workspace")


def by_component(guess: Estimate, found: Exact) -> dict[str, tuple[int, int]]:
    """Bytes of both answers at their peaks, by what they are: weights, adapter, gradients, states, and what passes."""
    parts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for part in guess.components:
        parts[_kind(part.name)][0] += part.bytes
    for name, size in found.components().items():
        parts[_kind(name)][1] += size
    return {name: (sizes[0], sizes[1]) for name, sizes in parts.items()}


def _kind(name: str) -> str:
    """Bring the names of both answers to one."""
    if name.startswith(("lora weights", "dora weights")):
        return "adapter"
    if name.startswith(("weights", "linear weights", "experts", "embedding", "norms")):
        return "weights"
    if name.endswith("states"):
        return "optimizer states"
    return name if name in HELD else "activations, logits and temporaries"


def explain(asked: Drawn) -> str:
    """Both answers by component and by moment, then what each holds at its peak."""
    guess, found = estimate(asked.question), traced(asked)
    peak, more = found.moments[found.peak_phase], found.workspace_bytes
    error = 100 * relative_error(guess.peak_bytes, found.peak_bytes)
    parts = by_component(guess, found).items()
    groups = [
        (size, f"{peak.counts[group]} x {group.dtype} {list(group.shape)} {group.operation}: {group.owner}")
        for group, size in peak.bytes.most_common(40)
    ]
    return "\n".join(
        [
            f"{asked.setting}: {error:+.2f} %",
            *(f"{one / MIB:10.1f} {two / MIB:10.1f} MiB {name} (estimate, exact)" for name, (one, two) in parts),
            "estimate:",
            *_lines((size, name) for name, size in guess.phases.items()),
            "exact:",
            *_lines((moment.total + more, name) for name, moment in found.moments.items()),
            f"estimate, {guess.peak_phase}:",
            *_lines((part.bytes, f"{part.name}: {part.formula}") for part in guess.components),
            f"exact, {found.peak_phase}:",
            *_lines((size, name) for name, size in found.components().items()),
            *_lines(groups),
        ]
    )


def _lines(rows: Iterable[tuple[int, str]]) -> Iterator[str]:
    return (f"  {size / MIB:10.1f}  {text}" for size, text in rows)


def main() -> None:
    """Trace a slice, and print where the estimate stands; or one table, or one explanation."""
    parser = argparse.ArgumentParser(description="The estimate against the traced step.")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--renew")
    parser.add_argument("--explain", type=int)
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args()
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # a refusal is a row of the table
    if asked.explain is not None:
        print(explain(drawn(asked.seed, asked.explain)))
        return
    numbers = range(asked.first, asked.first + asked.count)
    collect(asked.results, asked.seed, numbers, asked.seconds, asked.renew)
    found = list(compared(asked.results, asked.seed))
    print(summary(found))
    if asked.table:
        draws = {seed: list(compared(asked.results, seed)) for seed in seeds_of(asked.results)}
        versions = next(iter(read(asked.results, asked.seed).values()))["versions"]
        asked.table.write_text(table(draws, versions), encoding="utf-8")


if __name__ == "__main__":
    main()
