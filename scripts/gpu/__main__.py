"""Measure on a card, as much as there is time for; a later call goes on where this one ended.

    python -m scripts.gpu [WORD ...] [--budget SECONDS] [--out FOLDER] [--device cpu --tiny]

A WORD picks the cells that have it in their name ("G1", "nf4"). Results are lines of JSON in FOLDER, with a table
beside them. Without a card nothing is measured, and the reason is said. What cannot measure anything (a WORD that no
cell has, a budget for no cell) ends with exit code 2.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from scripts.gpu.cells import Cell, every_cell
from scripts.gpu.table import table

CELL_SECONDS = 540
STARTING_SECONDS = 60  # a cell is not begun with less time left
PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "trl")
NEEDS = {"trl": "trl", "trl_packed": "trl"}


def main() -> None:
    """Measure cell after cell until all are done or the time is over."""
    asked = _options()
    cells = chosen(asked.words)
    reason = None if asked.device == "cpu" else no_card()
    if reason:
        print(f"nothing to measure: {reason}")
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    results = asked.out / ("tiny.jsonl" if asked.tiny else "results.jsonl")
    done = read(results)
    if asked.budget <= STARTING_SECONDS and any(cell.name not in done for cell in cells):
        refuse(f"--budget {asked.budget:g}: no cell is begun with {STARTING_SECONDS} seconds left or fewer")
    deadline = time.monotonic() + asked.budget
    about = versions(asked.device)
    for cell in cells:
        if cell.name not in done and time.monotonic() + STARTING_SECONDS < deadline:
            done[cell.name] = facts = measure(cell, asked, deadline) | about
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"cell": cell.name, "kind": cell.kind} | facts) + "\n")
            print(cell.name, json.dumps({k: v for k, v in facts.items() if k not in about}), flush=True)
    results.with_suffix(".md").write_text(table(cells, done), encoding="utf-8")
    left = sum(cell.name not in done for cell in cells)
    print(f"{len(cells) - left} of {len(cells)} cells are measured" + (": run it again for the rest" if left else ""))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--budget", type=float, default=570.0, help="seconds of this call")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/gpu"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to run the scripts themselves")
    return parser.parse_args()


def chosen(words: list[str]) -> list[Cell]:
    """Give the cells that have one of the words in their name, all without words; each word must be in one."""
    cells = every_cell()
    unknown = [word for word in words if not any(word in cell.name for cell in cells)]
    if unknown:
        names = "\n".join(f"  {cell.name}" for cell in cells)
        refuse(f"no cell has {', '.join(map(repr, unknown))} in its name; there are\n{names}")
    return [cell for cell in cells if not words or any(word in cell.name for word in words)]


def refuse(why: str) -> NoReturn:
    """End with exit code 2: what was asked for measures nothing."""
    print(why, file=sys.stderr)
    sys.exit(2)


def no_card() -> str | None:
    """Say why there is nothing to measure on; None with a card."""
    import torch

    if torch.cuda.is_available():
        return None
    built = "is built without CUDA" if torch.version.cuda is None else "finds no card"
    return f"torch {torch.__version__} {built} (`lorafit doctor` says more)"


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Give what earlier calls have measured."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {found["cell"]: found for found in map(json.loads, lines)}


def measure(cell: Cell, asked: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """Run a cell in a process of its own; that it fails is a result too, and keeps its last words."""
    package = NEEDS.get(cell.contender)
    if package and find_spec(package) is None:
        return {"left_out": f"{package} is not installed"}
    command = [sys.executable, "-m", "scripts.gpu.cell", cell.name, "--device", asked.device]
    command += ["--tiny"] if asked.tiny else []
    limit = max(STARTING_SECONDS, min(CELL_SECONDS, deadline - time.monotonic()))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {limit:.0f} seconds"}
    if done.returncode:
        return {"failed": done.stderr[-800:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def versions(device: str) -> dict[str, str]:
    """Name the card and the packages."""
    import torch

    found = {"device": torch.cuda.get_device_name() if device == "cuda" else platform.machine()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
