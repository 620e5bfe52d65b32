"""Make the bands of `estimate-vram` out of observed errors: `lorafit/plan/bands.json`.

    python -m scripts.vram_bands [--results AGREEMENT.jsonl] --measured MEASURED.csv

AGREEMENT.jsonl holds traces of the real step for random questions (`scripts/vram_agreement.py`), MEASURED.csv published
runs of plain transformers (`scripts/vram_accuracy.py`). A band by traces holds SHARE of them, with the correction for
their number (order statistic of n + 1); that of published runs holds all, for they are few. Without new traces those of
before stay, for a trace is of the engine of its day. How far cards lay from what
a trace counts is read from the runs on one card, whose estimate equals their trace.
"""

import argparse
import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorafit.plan.bands import mode
from scripts.vram_accuracy import Compared
from scripts.vram_accuracy import compared as published
from scripts.vram_agreement import Agreement, seeds_of
from scripts.vram_agreement import compared as traced

SHARE = 0.95
LEAST = 20  # observations of a kind: fewer make no band
UNOBSERVED = (0.06, 0.15)  # nobody's number: wider than anything that was seen
BANDS = Path(__file__).parents[1] / "lorafit/plan/bands.json"


def truth(error: float) -> float:
    """The truth as a share of the estimate, above or below it, from the estimate's error as a share of the truth."""
    return 1 / (1 + error) - 1


def interval(truths: Sequence[float], share: float) -> tuple[float, float]:
    """Give how far below and above so large a share lies: order statistics, all of them where they are too few."""
    ordered = sorted(truths)
    place = math.floor((len(ordered) + 1) * (1 - share) / 2)
    low, high = (ordered[place - 1], ordered[-place]) if place else (ordered[0], ordered[-1])
    return max(0.0, -low), max(0.0, high)


def by_mode(found: Iterable[Agreement]) -> dict[str, list[float]]:
    """Sort errors of traced questions by their kind."""
    modes: dict[str, list[float]] = defaultdict(list)
    for each in found:
        if not each.refused:
            modes[mode(each.drawn.question)].append(truth(each.error))
    return modes


def bands(known: Mapping[str, Any], found: Iterable[Agreement], runs: Sequence[Compared]) -> dict[str, Any]:
    """Make the table; `known` are the modes that it had."""
    seen = {name: _row(truths, SHARE) for name, truths in by_mode(found).items() if len(truths) >= LEAST}
    modes = dict(sorted({**known, **seen}.items()))
    modes["transformers"] = _row([truth(run.error) for run in runs], 1.0)
    return {
        "made_by": "python -m scripts.vram_bands, out of traces of vram_agreement and published runs of vram_accuracy",
        "share": SHARE,
        "modes": modes,
        "cards": _row([truth(run.error) for run in runs if run.gpus == 1], 1.0),
        "unobserved": list(UNOBSERVED),
    }


def _row(truths: Sequence[float], share: float) -> dict[str, float]:
    below, above = interval(truths, share)
    return {"count": len(truths), "below": round(below, 4), "above": round(above, 4)}


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--measured", type=Path, required=True)
    asked = parser.parse_args()
    with asked.measured.open(encoding="utf-8", newline="") as lines:
        runs = list(published(list(csv.DictReader(lines))))
    seeds = seeds_of(asked.results) if asked.results else []
    found = [each for seed in seeds for each in traced(asked.results, seed)]
    known = json.loads(BANDS.read_text(encoding="utf-8"))["modes"] if BANDS.exists() else {}
    made = bands(known, found, runs)
    BANDS.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
