"""Benchmarks C8 and C9: chat rows to packed tokens, against TRL's preparation of the same rows; and the packer alone.

    python -m scripts.bench.data --tokenizer FOLDER [--rows 100000] [--peer-python PYTHON] [--factory-python PYTHON]

Sides take turns, each in a process of its own; the rows are made from a seed. `--peer-python` is a Python that has
trl, `--factory-python` one that has llamafactory. CPU time stands beside wall time, for machines that are shared.
"""

import argparse
import json
import math
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.bench import data_peers

MAX_LENGTH = 4096
PACKED = 1_000_000
SYLLABLES = "ba con de er fi gra hu in jo ka lo men no or pre qua re st tion ver wi ing ly al ous"
NAMES = ("torch", "transformers", "tokenizers", "datasets", "numpy")


def main() -> None:
    """Run all sides, or (inside) one."""
    options = _options()
    if options.side:
        print(json.dumps(SIDES[options.side](options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.data = str(Path(folder) / "rows.jsonl")
        options.cache = str(Path(folder) / "cache")
        write_rows(Path(options.data), options.rows)
        sides = ["cold", "cached", *(peer for peer, python in _pythons(options).items() if python)]
        results = [_run(side, options) for _ in range(options.rounds) for side in sides]
        results += [_run("packing", options)]
    print(json.dumps(results, indent=1))
    if options.out:
        _write(Path(options.out), options, results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peer-python")
    parser.add_argument("--factory-python")
    parser.add_argument("--factory-workers", type=int)
    parser.add_argument("--out")
    parser.add_argument("--side", choices=sorted(SIDES))
    parser.add_argument("--data")
    parser.add_argument("--cache")
    return parser.parse_args()


def write_rows(path: Path, count: int) -> None:
    """Write conversations of one to three questions; words follow Zipf's law, lengths a log-normal one."""
    draw = random.Random(1)
    words = sorted({"".join(draw.choices(SYLLABLES.split(), k=draw.randint(1, 4))) for _ in range(20_000)})
    weights = [1 / (rank + 10) for rank in range(len(words))]

    def text(length: int) -> str:
        return " ".join(draw.choices(words, weights, k=max(1, length)))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            turns = draw.choice((1, 1, 2, 3))
            each = max(4, min(1200, int(draw.lognormvariate(math.log(80), 0.7))) // turns)
            messages = [{"role": "system", "content": text(20)}] if draw.random() < 0.3 else []
            for _ in range(turns):
                messages += [{"role": "user", "content": text(each // 3)}]
                messages += [{"role": "assistant", "content": text(each - each // 3)}]
            file.write(json.dumps({"messages": messages}) + "\n")


def _pythons(options: argparse.Namespace) -> dict[str, str | None]:
    """Name the Python of each peer; they cannot share one."""
    return {"trl": options.peer_python, "llamafactory": options.factory_python}


def _run(side: str, options: argparse.Namespace) -> dict[str, Any]:
    python = _pythons(options).get(side) or sys.executable
    command = [
        python,
        "-m",
        "scripts.bench.data",
        "--side",
        side,
        "--tokenizer",
        options.tokenizer,
        "--rows",
        str(options.rows),
    ]
    command += ["--data", options.data, "--cache", options.cache]
    command += ["--factory-workers", str(options.factory_workers)] if options.factory_workers else []
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"side": side, **found}


def _timed(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    facts = work()
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    peak = {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    return {**seconds, **peak, **facts}


def _own(options: argparse.Namespace, *, fresh: bool) -> dict[str, Any]:
    """Prepare up to the first batch, into an empty cache or out of a full one."""
    import shutil

    import numpy as np

    from lorafit.data.batch import flat_batch
    from lorafit.data.cache import Cache
    from lorafit.data.prepare import prepare
    from lorafit.model.tokenizer import load_tokenizer
    from lorafit.recipe.schema import Recipe

    if fresh:
        shutil.rmtree(options.cache, ignore_errors=True)
    data = {"train": options.data, "max_length": MAX_LENGTH, "on_overlong": "truncate"}
    recipe = Recipe.model_validate({"version": 1, "model": {"path": "none"}, "data": data})
    tokenizer = load_tokenizer(Path(options.tokenizer))

    def work() -> dict[str, Any]:
        prepared = prepare(recipe, tokenizer, Cache(Path(options.cache), 2**40))
        flat_batch(prepared.train, prepared.train_packs, np.arange(1))
        report = prepared.report.train
        return {"tokens": report.tokens, "fill": report.fill, "from_cache": bool(prepared.remarks)}

    return _timed(work)


def _packing(options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from lorafit.data.packing import pack

    draw, capacity = np.random.default_rng(0), 2048
    short = draw.random(PACKED) < 0.7
    laws = {
        "uniform": draw.integers(1, capacity + 1, PACKED),
        "lognormal": draw.lognormal(5.5, 0.8, PACKED),
        "bimodal": np.where(short, draw.normal(120, 30, PACKED), draw.normal(1100, 200, PACKED)),
    }
    found: dict[str, Any] = {}
    for law, drawn in laws.items():
        lengths = np.clip(drawn, 1, capacity).astype(np.int64)
        wall, cpu = time.perf_counter(), time.process_time()
        packs = pack(np.arange(PACKED), lengths, capacity, 0)
        seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        found[law] = {**seconds, "fill": float(lengths.sum() / (len(packs) * capacity))}
    return found


SIDES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "cold": lambda options: _own(options, fresh=True),
    "cached": lambda options: _own(options, fresh=False),
    "trl": lambda options: data_peers.trl(options, _timed, MAX_LENGTH),
    "llamafactory": lambda options: data_peers.llamafactory(options, _timed, MAX_LENGTH),
    "packing": _packing,
}


def _write(folder: Path, options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "rows": options.rows,
        "tokenizer": Path(options.tokenizer).name,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in NAMES},
        "peer_versions": {peer: _versions(peer, python) for peer, python in _pythons(options).items() if python},
        "results": results,
    }
    path = folder / f"{facts['date']}-data.json"
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _versions(peer: str, python: str) -> dict[str, str]:
    script = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    asked = [python, "-c", script, peer, *NAMES]
    found: dict[str, str] = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    return found


if __name__ == "__main__":
    main()
