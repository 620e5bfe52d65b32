"""How much faster are several processes? One, two and four on one thread each, the same work, as ratios.

    python -m scripts.bench.ranks [--rounds N] [--json FILE]

The same recipe (the same rows, global batch and steps) runs in turns with each number of processes, with a whole base
and with a split one, through gloo on this CPU. Beside them as many processes that know nothing of each other do that
work each for itself, at once: what several reach of those is what the parting costs, whatever else the machine does and
however much its cores share. `scripts.bench.ranks_where` says where the rest goes.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import lorafit.train.run  # noqa: F401  # before the processes part, so that they need not
from lorafit import assets
from lorafit.plan.find_shape import read_config
from lorafit.recipe.load import load_recipe
from lorafit.report.progress import Reporter
from lorafit.train.course import Course
from lorafit.train.start import start

STEPS, WARM_UP = 10, 2  # of a run
ROW_TOKENS, BATCH_ROWS, MICRO_ROWS = 128, 8, 2
WORD = "The captain of a ship sails to Oslo with a hold of grain. "


@dataclass(frozen=True)
class Case:
    """So many processes, each with the whole base or with a part of it, or each for itself."""

    processes: int
    sharding: Literal["none", "full", "alone"] = "none"

    @property
    def name(self) -> str:
        """Name it in a table."""
        return f"{self.processes} x {NAMES[self.sharding]}"


NAMES = {"none": "whole", "full": "split", "alone": "alone"}
CASES = (Case(1), *(Case(count, kind) for count in (2, 4) for kind in ("alone", "none", "full")))


def prepare(folder: Path, micro_rows: int = MICRO_ROWS) -> Path:
    """Write a random model of 4 layers and 512 wide, full rows, and the recipe of all cases."""
    tiny = assets.folder("builtin:tiny")
    assert tiny
    model = folder / "model"
    shutil.copytree(tiny, model, ignore=shutil.ignore_patterns("*.safetensors"))
    vocabulary = cast("Any", read_config(tiny / "config.json"))["vocab_size"]
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=vocabulary, hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8
    )
    LlamaForCausalLM(shape).save_pretrained(model)
    rows = folder / "train.jsonl"
    rows.write_text((json.dumps({"text": WORD * 50}) + "\n") * BATCH_ROWS, encoding="utf-8")
    data = {"train": str(rows), "max_length": ROW_TOKENS, "on_overlong": "truncate"}
    training = {"max_steps": STEPS, "global_batch_size": BATCH_ROWS, "micro_batch_size": micro_rows}
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"version": 1, "model": {"path": str(model)}, "data": data, "training": training}))
    return recipe


def run(case: Case, recipe: Path) -> tuple[float, float]:
    """Train once; give tokens a second after the warm-up, and the processor seconds of a step, of all processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_rank, args=(case, recipe, n, port)) for n in range(case.processes)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    roots = range(case.processes if case.sharding == "alone" else 1)
    spent = sum(float(recipe.with_name(f"spent-{n}").read_text()) for n in range(case.processes))
    return sum(_speed(recipe.with_name(f"run-{n}")) for n in roots), spent / len(roots)


def _speed(root: Path) -> float:
    lines = (root / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return float(statistics.median(json.loads(line)["tokens_per_second"] for line in lines[WARM_UP:]))


def _rank(case: Case, recipe: Path, rank: int, port: str) -> None:
    alone = case.sharding == "alone"
    os.environ["LORAFIT_CACHE"] = "off"
    if not alone:
        me, count = str(rank), str(case.processes)
        os.environ |= {"RANK": me, "LOCAL_RANK": me, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    times: list[float] = []
    take = Course._step

    def timed(course: Course, reporter: Reporter) -> None:
        take(course, reporter)
        times.append(time.process_time())

    Course._step = timed  # type: ignore[assignment, method-assign]
    with Path(os.devnull).open("w") as nothing:
        sys.stderr = nothing
        loaded = load_recipe(recipe, [f"training.sharding={'none' if alone else case.sharding}"])
        start(loaded, recipe.with_name(f"run-{rank if alone else 0}"), "fresh")
    recipe.with_name(f"spent-{rank}").write_text(str((times[-1] - times[WARM_UP - 1]) / (len(times) - WARM_UP)))


Found = dict[str, list[tuple[float, float]]]


def rows(found: Found) -> list[str]:
    """Give each case beside one process, and beside as many that know nothing of each other, round by round."""
    lines = ["| processes, base | speed beside one | beside as many alone at once | processor time of a step |"]
    lines.append("|---|---|---|---|")
    for case in CASES[1:]:
        faster, work = (_beside(found[case.name], found[CASES[0].name], part) for part in (0, 1))
        share = _beside(found[case.name], found[Case(case.processes, "alone").name], 0)
        lines.append(f"| {case.name} | {faster:.2f} x | {share:.0%} | {work:.2f} x |")
    return lines


def _beside(these: list[tuple[float, float]], those: list[tuple[float, float]], part: int) -> float:
    return statistics.median(mine[part] / other[part] for mine, other in zip(these, those, strict=True))


def main() -> None:
    """Measure all cases in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: Found = {case.name: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        recipe = prepare(Path(folder))
        for _ in range(asked.rounds):
            for case in CASES:
                found[case.name].append(run(case, recipe))
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, gloo, one thread a process; {BATCH_ROWS} rows of {ROW_TOKENS} tokens a step, float32")
    print("\n".join(rows(found)))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
