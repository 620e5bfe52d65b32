"""Where a step's time goes, by kinds of operations: python -m scripts.bench.profile [C2] [lorafit].

One thread, the third step; the shares say what bounds a case that misses its target.
"""

import sys
import warnings
from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from scripts.bench.contenders import CONTENDERS, Step
from scripts.bench.work import WORKS

WARM_UP = 2
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "mkldnn::_linear", "aten::linear"),
    "attention": ("scaled_dot_product", "_flash_attention", "softmax"),
    "4-bit weights": ("bitsandbytes",),
    "optimizer": ("adamw",),
    "moving memory": ("copy_", "clone", "cat", "index", "gather", "scatter", "fill_", "zero_", "empty", "split"),
}
REST = "elementwise and the rest"


def kind_of(operation: str) -> str:
    """Put an operation under its kind."""
    name = operation.lower()
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), REST)


def main(case: str = "C2", name: str = "lorafit") -> None:
    """Profile one step and print the shares of the processor's time."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    profiler = profile(activities=[ProfilerActivity.CPU])
    seen = 0

    def told(_: Step) -> None:
        nonlocal seen
        seen += 1
        if seen == WARM_UP:
            profiler.start()
        elif seen == WARM_UP + 1:
            profiler.stop()

    CONTENDERS[name](WORKS[case], WARM_UP + 1, told)
    events: Any = profiler.key_averages()
    spent: Counter[str] = Counter()
    for event in events:
        spent[kind_of(event.key)] += event.self_cpu_time_total
    for kind, time in spent.most_common():
        print(f"{case} {name:<8} {time / spent.total():6.1%} {kind}")


if __name__ == "__main__":
    main(*sys.argv[1:])
