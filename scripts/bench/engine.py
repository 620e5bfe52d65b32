"""Benchmarks C1 to C5: everybody does the same work in turns, window by window, in one run. Ratios, not times.

    python -m scripts.bench.engine [C1 ...] [dora] [qdora] [--peers PYTHON] [--json FILE]

`--peers` is a Python that has trl; without it, and without trl here, its lines are left out. The machine's own matrix
products take turns with the rest, so that the share of what it can do is of the same minutes.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.bench.work import WORKS
from scripts.bench.worker import WINDOWS

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
PEERS = ("trl", "torch", "transformers", "peft")
TARGETS = {  # engine.md: of the speed, and of the memory where it says
    ("C1", "trainer"): (3.0, 0.40), ("C1", "trl"): (4.0, None), ("C1", "trl_packed"): (4.0, None),
    ("C2", "trainer"): (1.4, None), ("C3", "trainer"): (4.5, 0.15), ("C3", "trl"): (2.0, None),
    ("C4", "loop"): (1 / 1.15, None), ("C4", "trainer"): (3.0, None), ("C5", "trainer"): (1.5, None),
    ("dora", "trainer"): (1.0, None), ("qdora", "trainer"): (1.0, None),
}  # fmt: skip
CEILING = {"C2": 0.65}  # share of the measured matrix products


@dataclass
class Contender:
    """A process that works when it is its turn."""

    case: str
    name: str
    python: str = sys.executable
    one_thread: bool = False
    windows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        command = [self.python, "-m", "scripts.bench.worker", self.case, self.name]
        command += ["1"] if self.one_thread else []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def work(self) -> None:
        """Do one window and keep what it took."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} died in {self.case}: run python -m scripts.bench.worker by hand")
        self.windows.append(json.loads(line))

    def end(self) -> None:
        """Let the process go."""
        self.process.kill()
        self.process.wait()

    @property
    def rate(self) -> float:
        """Real tokens a second (of `products`: operations), the median of all windows but the first."""
        return float(statistics.median(self.rates[1:]))

    @property
    def rates(self) -> list[float]:
        """The same of every window: by the clock, or of one thread by its processor time."""
        clock = "cpu_seconds" if self.one_thread else "seconds"
        return [window["tokens"] / window[clock] for window in self.windows]

    @property
    def losses(self) -> list[float]:
        """Give the loss of every step."""
        return [loss for window in self.windows for loss in window["losses"]]


def run(case: str, peers: str | None, one_thread: bool, windows: int) -> dict[str, Any]:
    """Run one case; give the ratios of lorafit to each peer, and the share of the machine's matrix products."""
    names = [name for name in WORKS[case].peers if peers or not name.startswith("trl")]
    pythons = {name: peers for name in names if peers and name.startswith("trl")}
    everyone = ("lorafit", *names, "products")
    contenders = [Contender(case, name, pythons.get(name, sys.executable), one_thread) for name in everyone]
    try:
        for _ in range(windows):
            for contender in contenders:
                contender.work()
    finally:
        for contender in contenders:
            contender.end()
    ours, *others, products = contenders
    share = ours.rate * WORKS[case].flops_per_token / products.rate
    spread = {c.name: [round(rate, 1) for rate in c.rates] for c in contenders[:-1]}
    facts = {"windows": spread, "case": case, "about": WORKS[case].about, "tokens_per_second": round(ours.rate)}
    ceiling = {"flops_per_token": WORKS[case].flops_per_token, "products_flops": products.rate, "share": share}
    return facts | ceiling | {"peers": {peer.name: _against(ours, peer) for peer in others}}


def _against(ours: Contender, peer: Contender) -> dict[str, float | None]:
    apart = max(abs(a - b) / abs(b) for a, b in zip(ours.losses, peer.losses, strict=True))
    speed, memory = TARGETS[ours.case, peer.name]
    return {
        "speed": round(ours.rate / peer.rate, 2),
        "memory": round(ours.windows[-1]["memory_bytes"] / peer.windows[-1]["memory_bytes"], 3),
        "losses_apart": apart,
        "target_speed": round(speed, 2),
        "target_memory": memory,
    }


def rows(result: dict[str, Any]) -> list[str]:
    """Give the lines of a case for a Markdown table; what misses its target is marked."""
    case, share = result["case"], result["share"]
    lines = []
    for name, ratio in result["peers"].items():
        wanted = f"{ratio['target_speed']:.2f} x"
        missed = ratio["speed"] < ratio["target_speed"]
        if ratio["target_memory"] is not None:
            wanted += f", {ratio['target_memory']:.0%}"
            missed = missed or ratio["memory"] > ratio["target_memory"]
        cells = [case, result["about"], name, f"{ratio['speed']:.2f} x", f"{ratio['memory']:.1%}", wanted]
        lines.append(_row([*cells, "missed" if missed else "met", f"{ratio['losses_apart']:.1e}"]))
    wanted, missed = (f"{CEILING[case]:.0%}", share < CEILING[case]) if case in CEILING else ("", False)
    verdict = ("missed" if missed else "met") if wanted else ""
    return [*lines, _row([case, result["about"], "matrix products", f"{share:.0%} of", "", wanted, verdict, ""])]


HEADER = ("", "work", "beside", "tokens a second", "memory", "target", "", "losses apart")


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def versions(python: str | None) -> dict[str, str]:
    """Give the versions of the peers' packages."""
    if python is None:
        return {}
    script = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    done = subprocess.run([python, "-c", script, *PEERS], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run the cases named, C1 to C5 by default, and print a row for each peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=[case for case in WORKS if case.startswith("C")])
    parser.add_argument("--peers", default=sys.executable if importlib.util.find_spec("trl") else None)
    parser.add_argument("--one-thread", action="store_true", help="processor time of one thread: for a busy machine")
    parser.add_argument(
        "--windows", type=int, default=WINDOWS, choices=range(2, WINDOWS + 1), help="the first warms up"
    )
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    print(_row(HEADER), _row(["---"] * len(HEADER)), sep="\n", flush=True)
    found = []
    for case in asked.cases:
        found.append(run(case, asked.peers, asked.one_thread, asked.windows))
        print("\n".join(rows(found[-1])), flush=True)
    if asked.json:
        about = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
        record = {"date": datetime.now(UTC).date().isoformat(), "versions": about, "peers": versions(asked.peers)}
        record |= {"clock": "processor time of one thread" if asked.one_thread else "wall time, two threads"}
        asked.json.write_text(json.dumps(record | {"results": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
