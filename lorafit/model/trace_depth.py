"""A deep model from two shallow traces: every moment of a step grows by the same bytes with each equal layer."""

import re
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version

from lorafit.errors import ModelError
from lorafit.model.trace import OptimizerBuilder, Trace, trace
from lorafit.model.trace_log import Birth, Peak
from lorafit.plan.exact import Exact, Moment, TensorGroup
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.unroll import unrolled

SHALLOW = (3, 4)  # depths with a first, a last, and one and two equal layers between them
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
_LAYER = re.compile(r" of layer (\d+)$")
_FIRST, _LAST = {0: "first layer", 1: "second layer"}, {1: "last layer", 2: "last layer but one"}


def exact(
    question: MemoryQuestion, config: Mapping[str, object], build_optimizer: OptimizerBuilder, *, whole: bool = False
) -> Exact:
    """Trace the step; `whole` traces every layer even where all are alike. ModelError where it cannot be built."""
    layers = len(question.shape.layers)
    depths = (layers,) if whole or layers <= SHALLOW[-1] or not _alike(question) else SHALLOW
    try:
        traces = [trace(question, config, depth, build_optimizer) for depth in depths]
    except ModelError:
        if len(depths) == 1 or not question.shape.read_off:
            raise
        depths = (layers,)  # some configurations say more of each layer than how many there are
        traces = [trace(question, config, layers, build_optimizer)]
    differ = not _alike(question)
    found = [moments(each, depth, question.recomputed, differ) for each, depth in zip(traces, depths, strict=True)]
    deep = found[-1]
    if len(found) > 1:
        deep = {phase: moment.extended(found[0][phase], layers - depths[-1]) for phase, moment in deep.items()}
    return Exact(
        moments=deep,
        layers=layers,
        traced_layers=depths,
        seconds=sum(each.seconds for each in traces),
        versions={name: version(name) for name in LIBRARIES},
        workspace_bytes=question.workspace_bytes,
        recording=unrolled(traces[-1].recording, traces[0].recording, layers),
    )


def _alike(question: MemoryQuestion) -> bool:
    """Tell whether every layer has the same parts and the same adapters, and is kept or recomputed as the others."""
    if any(count not in (0, len(question.shape.layers)) for count in (question.recomputed, question.unpacked_layers)):
        return False
    if any(layer is not question.shape.layers[0] for layer in question.shape.layers):
        return False
    adapted: dict[str, set[str]] = {}
    for linear in question.targets:
        index, _, name = linear.name.removeprefix(question.shape.prefix + ".").partition(".")
        adapted.setdefault(index, set()).add(name)
    return not adapted or (
        len(adapted) == len(question.shape.layers) and len({frozenset(names) for names in adapted.values()}) == 1
    )


def moments(traced: Trace, depth: int, recomputed: int = 0, differ: bool = False) -> dict[str, Moment]:
    """Name each phase by where its layer stands, and sum up equal tensors; of layers between that differ, the worst."""
    named: dict[str, Peak] = {}
    for phase, peak in traced.peaks.items():
        for name in _names(phase, depth, recomputed, differ):
            if name not in named or named[name].bytes < peak.bytes:
                named[name] = peak
    return {name: _moment(peak, traced.owners) for name, peak in named.items()}


def _names(phase: str, depth: int, recomputed: int, differ: bool) -> list[str]:
    """Equal layers between the second and the last but one hold no more than those two; others may: they have a name.

    Where only the first so many layers are recomputed, the last of those is a peak of its own.
    """
    found = _LAYER.search(phase)
    if not found:
        return [phase]
    index, what = int(found[1]), phase[: found.start()]
    places = [_FIRST.get(index), _LAST.get(depth - index)]
    if index == recomputed - 1 < depth - 1:
        places.append("last recomputed layer")
    if differ and not any(places):
        return [f"{what} of a layer between"]
    return [f"{what} of the {place}" for place in places if place]


def _moment(peak: Peak, owners: Mapping[int, str]) -> Moment:
    sizes: Counter[TensorGroup] = Counter()
    counts: Counter[TensorGroup] = Counter()
    for birth in peak.live.values():
        group = TensorGroup(_owner(birth, owners), birth.operation, birth.shape, birth.dtype)
        sizes[group] += birth.bytes
        counts[group] += 1
    return Moment(sizes, counts, peak.bytes - sizes.total())


def _owner(birth: Birth, owners: Mapping[int, str]) -> str:
    """Whose a tensor is: noted by the tracer, or told by when it was made."""
    known = owners.get(birth.number)
    if known:
        return known
    if birth.phase.startswith("forward"):
        return "activations kept from the forward"
    if birth.phase.startswith("backward of layer"):
        return "the layer at work in the backward"
    return "logits, loss and their gradients" if "loss" in birth.phase else "temporaries of the update"
