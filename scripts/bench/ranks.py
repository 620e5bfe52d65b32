"""How much faster are several processes? One, two and four on one thread each, the same work, as ratios.

    python -m scripts.bench.ranks [--rounds N] [--json FILE]

The same recipe (the same rows, global batch and steps) runs in turns with each number of processes, with a whole base
and with a split one, through gloo on this CPU. It needs a quiet machine and a core for each process; the processor time
of all processes together says what the parting itself costs.
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
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import lorafit.train.run  # noqa: F401  # before the processes part, so that they need not
from lorafit import assets
from lorafit.plan.find_shape import read_config
from lorafit.recipe.load import load_recipe
from lorafit.train.start import start

STEPS, WARM_UP = 8, 2  # steps of a run; a run of the first ones alone is taken off its processor time
ROW_TOKENS, BATCH_ROWS = 128, 8
WORD = "The captain of a ship sails to Oslo with a hold of grain. "


@dataclass(frozen=True)
class Case:
    """So many processes, each with the whole base or with a part of it."""

    processes: int
    sharding: str

    @property
    def name(self) -> str:
        """Name it in a table."""
        return f"{self.processes} x {'split' if self.sharding == 'full' else 'whole'}"


CASES = (Case(1, "none"), Case(2, "none"), Case(2, "full"), Case(4, "none"), Case(4, "full"))


def prepare(folder: Path) -> Path:
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
    training = {"max_steps": STEPS, "global_batch_size": BATCH_ROWS, "micro_batch_size": 2}
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"version": 1, "model": {"path": str(model)}, "data": data, "training": training}))
    return recipe


def run(case: Case, recipe: Path, steps: int) -> tuple[float, float]:
    """Train once; give tokens a second after the warm-up, and the processor seconds of all processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_rank, args=(case, recipe, steps, n, port)) for n in range(case.processes)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    lines = (recipe.with_name("run") / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    speeds = [json.loads(line)["tokens_per_second"] for line in lines]
    spent = sum(float(recipe.with_name(f"spent-{n}").read_text()) for n in range(case.processes))
    return float(statistics.median(speeds[WARM_UP:] or speeds)), spent


def _rank(case: Case, recipe: Path, steps: int, rank: int, port: str) -> None:
    count = str(case.processes)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LORAFIT_CACHE": "off"}
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nothing:
        sys.stderr = nothing
        loaded = load_recipe(recipe, [f"training.sharding={case.sharding}", f"training.max_steps={steps}"])
        start(loaded, recipe.with_name("run"), "fresh")
    recipe.with_name(f"spent-{rank}").write_text(str(time.process_time()))


def measure(case: Case, recipe: Path) -> tuple[float, float]:
    """Give tokens a second, and the processor seconds of a step in all processes together."""
    _, before = run(case, recipe, WARM_UP)
    speed, spent = run(case, recipe, STEPS)
    return speed, (spent - before) / (STEPS - WARM_UP)


def show(found: dict[str, list[tuple[float, float]]]) -> None:
    """Print each case beside one process in the same round."""
    cores = len(os.sched_getaffinity(0))
    alone = found[CASES[0].name]
    print(f"{cores} cores, gloo, one thread a process; {BATCH_ROWS} rows of {ROW_TOKENS} tokens a step, float32")
    for case in CASES:
        pairs = list(zip(found[case.name], alone, strict=True))
        faster = statistics.median(mine[0] / one[0] for mine, one in pairs)
        work = statistics.median(mine[1] / one[1] for mine, one in pairs)
        efficiency = faster / min(case.processes, cores)
        shared = f"; {case.processes} processes share {cores} cores" if case.processes > cores else ""
        print(
            f"{case.name:>10} {faster:5.2f} x the speed ({efficiency:4.0%}), {work:5.2f} x the processor time{shared}"
        )


def main() -> None:
    """Measure all cases in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {case.name: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        recipe = prepare(Path(folder))
        for _ in range(asked.rounds):
            for case in CASES:
                found[case.name].append(measure(case, recipe))
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
