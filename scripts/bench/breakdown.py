"""Where a step's time goes, by kinds of operations: python -m scripts.bench.breakdown [C2 ...] [--of trainer].

One thread, the third step. The shares say what bounds a case that misses its target; what products reach of the rate
of large ones, in the same process, says whether it is their shapes.
"""

import argparse
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from scripts.bench.contenders import CONTENDERS, Step, products
from scripts.bench.work import WORKS, Work

WARM_UP = 2
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm")
OVERHEAD = "Python, autograd, allocation"
REST = "rotary, residuals, copies, the rest"
WITHIN = {"_HeadLoss": "loss beside its products", "RmsNorm": "norms", "Gated": "gated MLP", "silu": "gated MLP"}
NAMED = {"adamw": "optimizer", "_foreach": "optimizer", "vector_norm": "optimizer", "bitsandbytes": "4-bit weights"}


def main() -> None:
    """Print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["C1", "C2", "C3", "C4"])
    parser.add_argument("--of", default="lorafit", choices=sorted(CONTENDERS))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for case in asked.cases:
        show(case, WORKS[case], *profiled(WORKS[case], asked.of))


def profiled(work: Work, name: str) -> tuple[list[Any], float]:
    """Profile one step; give its events, and the microseconds of the processor it took."""
    profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
    seen, began, took = 0, 0.0, 0.0

    def told(_: Step) -> None:
        nonlocal seen, began, took
        seen += 1
        if seen == WARM_UP:
            profiler.start()
            began = time.process_time()
        elif seen == WARM_UP + 1:
            took = time.process_time() - began
            profiler.stop()

    CONTENDERS[name](work, WARM_UP + 1, told)
    events: Any = profiler.events()  # type: ignore[no-untyped-call]
    return list(events), took * 1e6


def show(case: str, work: Work, events: list[Any], took: float) -> None:
    """Print the share of each kind, and what its products reach."""
    spent: dict[str, float] = defaultdict(float)
    operations: Counter[str] = Counter()
    for event in events:
        kind = kind_of(event, work)
        spent[kind] += event.self_cpu_time_total
        operations[kind] += product_operations(event)
    spent[OVERHEAD] += max(0.0, took - sum(spent.values()))
    large, whole = large_rate(work), sum(spent.values())
    for kind, micros in sorted(spent.items(), key=lambda item: -item[1]):
        reached = f"{operations[kind] / micros / large:6.0%} of the rate of large products" if operations[kind] else ""
        print(f"{case} {micros / whole:6.1%}  {kind:<28} {reached}".rstrip(), flush=True)


def kind_of(event: Any, work: Work) -> str:
    """Put an event under its kind, by its name, its shapes and what it happens in."""
    above = [event.name, *(parent.name for parent in parents(event))]
    backward = ", backward" if any("Backward" in name or "backward" in name for name in above) else ", forward"
    if event.name in PRODUCTS:
        sizes = {size for shape in event.input_shapes for size in shape}
        if work.vocabulary in sizes:
            return "head products"
        return "adapter products" if work.rank in sizes else "base products" + backward
    if any("scaled_dot_product" in name for name in above):
        return "attention" + backward
    for table, names in ((NAMED, [event.name.lower()]), (WITHIN, above)):
        found = next((kind for word, kind in table.items() if any(word in name for name in names)), None)
        if found:
            return found
    if event.name.startswith("aten::") and "empty" not in event.name:
        wide = any(work.config.intermediate_size in shape for shape in event.input_shapes)
        return "gated MLP" if wide else REST
    return OVERHEAD


def parents(event: Any) -> Iterator[Any]:
    """Give what an event happens in, from the inside out."""
    while (event := event.cpu_parent) is not None:
        yield event


def product_operations(event: Any) -> int:
    """Count the floating-point operations of a matrix product."""
    if event.name not in PRODUCTS:
        return 0
    first = 1 if "addmm" in event.name else 0  # what it is added to comes before the two
    left, right = event.input_shapes[first : first + 2]
    return int(2 * prod(left) * right[-1])


def large_rate(work: Work) -> float:
    """Measure what large products reach in this process: operations a microsecond."""
    times: list[float] = []
    done: list[float] = []

    def told(step: Step) -> None:
        done.append(step.tokens)
        times.append(time.process_time())

    products(work, 3, told)
    return (done[1] + done[2]) / (times[2] - times[0]) / 1e6


if __name__ == "__main__":
    main()
