"""Benchmarks C1 to C4: everybody does the same work in turns, window by window, in one run. Ratios, not times.

python -m scripts.bench.engine [C1 ...] [--json FILE]
"""

import argparse
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

PACKAGES = ("torch", "transformers", "peft", "accelerate")


@dataclass
class Contender:
    """A process that works when it is its turn."""

    case: str
    name: str
    windows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "scripts.bench.worker", self.case, self.name]
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
        """Real tokens a second, the median of all windows but the first."""
        return float(statistics.median(w["tokens"] / w["seconds"] for w in self.windows[1:]))

    @property
    def losses(self) -> list[float]:
        """Give the loss of every step."""
        return [loss for window in self.windows for loss in window["losses"]]


def run(case: str) -> dict[str, Any]:
    """Run one case; give the ratios of lorafit to each peer."""
    contenders = [Contender(case, name) for name in ("lorafit", *WORKS[case].peers)]
    try:
        for _ in range(WINDOWS):
            for contender in contenders:
                contender.work()
    finally:
        for contender in contenders:
            contender.end()
    ours, *others = contenders
    return {"case": case, "about": WORKS[case].about, "tokens_per_second": round(ours.rate)} | {
        "peers": {peer.name: _against(ours, peer) for peer in others}
    }


def _against(ours: Contender, peer: Contender) -> dict[str, float]:
    apart = max(abs(a - b) / abs(b) for a, b in zip(ours.losses, peer.losses, strict=True))
    return {
        "speed": round(ours.rate / peer.rate, 2),
        "memory": round(ours.windows[-1]["memory_bytes"] / peer.windows[-1]["memory_bytes"], 3),
        "losses_apart": apart,
    }


def main() -> None:
    """Run the cases named, all by default, and print a line for each peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(WORKS))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = [run(case) for case in asked.cases]
    for result in found:
        for name, ratio in result["peers"].items():
            print(
                f"{result['case']} {result['about']:<18} lorafit / {name:<8} {ratio['speed']:5.2f} x tokens a second, "
                f"{ratio['memory']:6.1%} of the memory, losses apart {ratio['losses_apart']:.1e}"
            )
    if asked.json:
        about = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
        record = {"date": datetime.now(UTC).date().isoformat(), "versions": about, "results": found}
        asked.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
