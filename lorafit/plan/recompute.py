"""How many layers are computed again in the backward pass: none where all fits, else as few as make it fit."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from lorafit.plan.question import MemoryQuestion


def with_least_recomputation(
    question: MemoryQuestion, fits: Callable[[MemoryQuestion], bool], *, has_host: bool = True
) -> MemoryQuestion:
    """Recompute the smallest number of layers that fits, the first ones; all of them where nothing does.

    Where even that does not fit their inputs go to the host, if the device has one beside it. The first, since the
    layers above them are gone when theirs is the backward: a recomputed layer at the top would stand in full beside
    all that is kept below it.
    """
    kept = replace(question, checkpointing=False, recomputed_layers=None)
    if fits(kept):
        return kept
    layers = len(question.shape.layers)
    asked = [replace(question, checkpointing=True, recomputed_layers=count) for count in range(1, layers)]
    asked.append(replace(question, checkpointing=True, recomputed_layers=None))
    found = bisect_left(asked, True, key=fits)
    return asked[found] if found < len(asked) else replace(asked[-1], offloaded=has_host)


def in_words(recomputed: int | None, layers: int | None, *, offloaded: bool = False) -> str:
    """Say how many of the layers are recomputed: None stands for all, as many as there may be."""
    if recomputed == 0:
        return "activations kept"
    which = "every layer" if recomputed in (None, layers) else f"{recomputed} of {layers} layers"
    return f"{which} recomputed" + (", from the host" if offloaded else "")
