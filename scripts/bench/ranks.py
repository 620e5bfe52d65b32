"""How much faster are several processes? Tokens a second of one, two and four, on one thread each, as ratios.

    python -m scripts.bench.ranks [--rounds N] [--json FILE]

The same recipe (the same rows, global batch and steps) runs in turns with each number of processes, with a whole base
and with a split one, through gloo on this CPU. More processes than cores share those: their line says so.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lorafit import assets
from lorafit.plan.find_shape import read_config

STEPS, WARM_UP = 10, 3  # steps of a run, and those of them that are not counted
ROW_TOKENS, BATCH_ROWS = 256, 16
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
    rows.write_text((json.dumps({"text": WORD * 100}) + "\n") * BATCH_ROWS, encoding="utf-8")
    data = {"train": str(rows), "max_length": ROW_TOKENS, "on_overlong": "truncate"}
    training = {"max_steps": STEPS, "global_batch_size": BATCH_ROWS, "micro_batch_size": 4}
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"version": 1, "model": {"path": str(model)}, "data": data, "training": training}))
    return recipe


def tokens_per_second(case: Case, recipe: Path) -> float:
    """Train once; give the median speed of the steps after the warm-up."""
    run = recipe.with_name("run")
    words = [sys.executable, "-m", "lorafit", "train", str(recipe), "--fresh", "--out", str(run)]
    options = ["--gpus", str(case.processes), "--set", f"training.sharding={case.sharding}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LORAFIT_CACHE": "off", "HF_HUB_OFFLINE": "1"}
    subprocess.run([*words, *options], env=environment, check=True, stderr=subprocess.DEVNULL)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return float(statistics.median(step["tokens_per_second"] for step in steps[WARM_UP:]))


def show(speeds: dict[str, list[float]]) -> None:
    """Print the medians, and their ratios to one process in the same round."""
    cores = len(os.sched_getaffinity(0))
    alone = speeds[CASES[0].name]
    print(f"{cores} cores, gloo, one thread a process; {BATCH_ROWS} rows of {ROW_TOKENS} tokens a step, float32")
    for case in CASES:
        found = speeds[case.name]
        ratio = statistics.median(speed / one for speed, one in zip(found, alone, strict=True))
        shared = f"; {case.processes} processes share {cores} cores" if case.processes > cores else ""
        share = ratio / min(case.processes, cores)
        print(f"{case.name:>10} {statistics.median(found):8,.0f} tokens/s {ratio:6.2f} x one, {share:4.0%}{shared}")


def main() -> None:
    """Measure all cases in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    speeds: dict[str, list[float]] = {case.name: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        recipe = prepare(Path(folder))
        for _ in range(asked.rounds):
            for case in CASES:
                speeds[case.name].append(tokens_per_second(case, recipe))
    show(speeds)
    if asked.json:
        asked.json.write_text(json.dumps(speeds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
