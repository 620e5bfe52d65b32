"""What the runs of this folder measured of their memory: how far their estimates were off on this machine."""

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

from lorafit.rundir.layout import RunFolder

RUNS = Path("runs")
MOST_TIMES = 100  # its estimate: what measured more was another run


def own_truths(runs: Path = RUNS) -> list[float]:
    """Give the measured peak of each run on a card, as a share above or below its estimate."""
    return list(_truths(runs)) if runs.is_dir() else []


def _truths(runs: Path) -> Iterator[float]:
    for folder in sorted(runs.iterdir()):
        report = RunFolder(folder).memory_report
        try:
            facts = json.loads(report.read_text(encoding="utf-8") if report.is_file() else "")  # a pipe has no end
            difference = float(facts["difference"])
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue  # a run that was not compared with a card, or no run
        if isfinite(difference) and difference > 1 / MOST_TIMES - 1:
            yield 1 / (1 + difference) - 1
