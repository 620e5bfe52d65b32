"""Benchmarks C6 and C7: commands that need no model, and the time from a cold start to the first optimizer step.

    python -m scripts.bench.start [C6 C7] [--peers PYTHON] [--factory PYTHON] [--rounds N] [--json FILE]

Every round runs each command once, so that a busy machine slows all of them alike; medians count, and stand beside a
bare import in the same rounds. A round before them does not count: it compiles to bytecode what is not compiled yet.
`--peers` is a Python with trl beside it, `--factory` one with llamafactory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lorafit import assets

TRAINER = Path(__file__).with_name("start_trainer.py")
LORAFIT = ("-m", "lorafit")
IMPORTS = "import torch, peft, accelerate; from transformers import AutoTokenizer, LlamaForCausalLM"
ROWS = 64


@dataclass(frozen=True)
class Command:
    """Something to time, to its end or (`until`) to a text that it prints."""

    name: str
    words: tuple[str, ...]
    until: str = ""

    def seconds(self) -> tuple[float, float]:
        """Run it once; give the time to its end, or to its text, and the processor's of all of it.

        RuntimeError when it fails, or never says what it should.
        """
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1", "LORAFIT_CACHE": "off"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package starts from bytecode
        start = time.perf_counter()
        process = subprocess.Popen(
            self.words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert process.stdout
        said, found = "", None
        for line in process.stdout:
            said += line
            if self.until and found is None and self.until in line:
                found = time.perf_counter() - start
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        if code or (self.until and found is None):
            raise RuntimeError(f"{' '.join(self.words)} ended with {code}:\n{said[-2000:]}")
        return found if found is not None else time.perf_counter() - start, used.ru_utime + used.ru_stime


def beside(python: str | None, name: str, *words: str) -> list[Command]:
    """Make a command of a program that is installed beside a Python; none where it is not."""
    program = Path(python).with_name(name) if python else None
    return [Command(f"{name} {' '.join(words)}", (str(program), *words))] if program and program.exists() else []


def light(peers: str | None, factory: str | None) -> list[Command]:
    """C6: help, checks and estimates."""
    own = [("--help",), ("validate", "recipes/quickstart.yaml"), ("estimate-vram", "recipes/quickstart.yaml")]
    own += [("estimate-vram", "--model", "70b", "--method", "qlora")]
    return [
        Command("import torch", (sys.executable, "-c", "import torch")),
        *(Command(f"lorafit {' '.join(words)}", (sys.executable, *LORAFIT, *words)) for words in own),
        *beside(peers, "trl", "--help"),
        *beside(peers, "trl", "sft", "--help"),
        *beside(peers or sys.executable, "accelerate", "estimate-memory", "--help"),
        *beside(factory, "llamafactory-cli", "version"),
    ]


def first_step(folder: Path, peers: str | None) -> list[Command]:
    """C7: the built-in model, eight rows, one step; each is timed to the line that says the step is done."""
    rows = folder / "rows"
    rows.mkdir()
    texts = [json.dumps({"text": f"The captain of ship {number} sails to Oslo."}) for number in range(ROWS)]
    (rows / "train.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    model = str(assets.folder("builtin:tiny"))
    recipe = {
        "version": 1, "model": {"path": "builtin:tiny"}, "data": {"train": str(rows / "train.jsonl"), "packing": False},
        "training": {"max_steps": 1, "global_batch_size": 8}, "output": {"dir": str(folder / "run")},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    own = (sys.executable, *LORAFIT, "train", str(folder / "recipe.yaml"), "--fresh")
    trl = beside(peers, "trl", "sft", "--model_name_or_path", model, "--dataset_name", str(rows), "--max_steps", "1",
        "--output_dir", str(folder / "trl"), "--per_device_train_batch_size", "8", "--use_cpu", "--bf16", "false",
        "--gradient_checkpointing", "false", "--report_to", "none", "--use_peft", "--lora_r", "16",
        "--lora_target_modules", "all-linear", "--logging_steps", "1", "--disable_tqdm", "true", "--dtype", "float32",
    )  # fmt: skip
    script = (sys.executable, str(TRAINER), model, str(rows / "train.jsonl"), str(folder / "trainer"))
    return [
        Command("the imports alone", (sys.executable, "-c", IMPORTS)),
        Command("lorafit train", own, until="step 1/1"),
        Command("a Trainer script", script, until="step 1 is done"),
        *(Command("trl sft", command.words, until="loss") for command in trl),
    ]


def measure(commands: list[Command], rounds: int) -> dict[str, tuple[float, float]]:
    """Give the median seconds of each command, by the clock and of the processor."""
    times: dict[str, list[tuple[float, float]]] = {command.name: [] for command in commands}
    for _ in range(1 + rounds):
        for command in commands:
            times[command.name].append(command.seconds())
    return {
        name: (statistics.median(wall for wall, _ in found[1:]), statistics.median(cpu for _, cpu in found[1:]))
        for name, found in times.items()
    }


def show(case: str, found: dict[str, tuple[float, float]]) -> None:
    """Print each median, and its share of the first command's."""
    first, (wall_unit, cpu_unit) = next(iter(found.items()))
    print(f"{'':3} {'clock':>18} {'processor':>18}   (x {first})")
    for name, (wall, cpu) in found.items():
        print(
            f"{case} {wall:7.2f} s {wall / wall_unit:6.2f} x {cpu:7.2f} s {cpu / cpu_unit:6.2f} x   {name}", flush=True
        )


def main() -> None:
    """Measure the cases named, both by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["C6", "C7"])
    parser.add_argument("--peers")
    parser.add_argument("--factory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results: dict[str, dict[str, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in asked.cases:
            c6 = case == "C6"
            commands = light(asked.peers, asked.factory) if c6 else first_step(Path(folder), asked.peers)
            results[case] = measure(commands, asked.rounds)
            show(case, results[case])
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
