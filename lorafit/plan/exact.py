"""The exact answer beside the estimate: what a trace of the real step found, brought to the model's full depth."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lorafit.plan.reserved import Reserved
from lorafit.plan.units import Unit, signed_percent
from lorafit.plan.unroll import Recording

MOST_TENSORS = 8


class TensorGroup(NamedTuple):
    """Equal tensors of the peak: whose they are, what made them, and how many."""

    owner: str
    operation: str
    shape: tuple[int, ...]
    dtype: str


class Moment(NamedTuple):
    """The most that was live in one phase; bytes by group of equal tensors, and how many there were of each."""

    bytes: Counter[TensorGroup]
    counts: Counter[TensorGroup]
    scratch_bytes: int = 0  # taken and given back by the kernel in flight

    @property
    def total(self) -> int:
        """All bytes."""
        return self.bytes.total() + self.scratch_bytes

    def extended(self, shallower: "Moment", steps: int) -> "Moment":
        """Go on linearly: `shallower` is the same moment with one layer less, `steps` the layers to add."""
        names = _over_all_layers(self.counts, shallower.counts, steps)
        deep, shallow = (_renamed(moment, names) for moment in (self, shallower))
        return Moment(
            _extended(deep.bytes, shallow.bytes, steps),
            _extended(deep.counts, shallow.counts, steps),
            self.scratch_bytes + steps * (self.scratch_bytes - shallower.scratch_bytes),
        )


def _over_all_layers(
    deep: Counter[TensorGroup], shallow: Counter[TensorGroup], steps: int
) -> dict[TensorGroup, TensorGroup]:
    """Give tensors over all layers, as the buffer that all adapters lie in, the shape of the full depth.

    Each depth has its own shape of them, and none of the other's: the n-th largest of one is the n-th of the other.
    """
    names: dict[TensorGroup, TensorGroup] = {}
    grown, lesser = _by_kind(deep.keys() - shallow.keys()), _by_kind(shallow.keys() - deep.keys())
    for kind, groups in grown.items():
        for one, other in zip(groups, lesser.get(kind, []), strict=False):
            shape = tuple(size + steps * (size - less) for size, less in zip(one.shape, other.shape, strict=True))
            names[one] = names[other] = one._replace(shape=shape)
    return names


def _by_kind(groups: Iterable[TensorGroup]) -> dict[tuple[str, str, str, int], list[TensorGroup]]:
    kinds: dict[tuple[str, str, str, int], list[TensorGroup]] = {}
    for group in sorted(groups, key=lambda each: each.shape, reverse=True):
        kinds.setdefault((group.owner, group.operation, group.dtype, len(group.shape)), []).append(group)
    return kinds


def _renamed(moment: Moment, names: Mapping[TensorGroup, TensorGroup]) -> Moment:
    sizes: Counter[TensorGroup] = Counter()
    counts: Counter[TensorGroup] = Counter()
    for group, size in moment.bytes.items():
        sizes[names.get(group, group)] += size
        counts[names.get(group, group)] += moment.counts[group]
    return Moment(sizes, counts, moment.scratch_bytes)


def _extended(deep: Counter[TensorGroup], shallow: Counter[TensorGroup], steps: int) -> Counter[TensorGroup]:
    keys = dict.fromkeys([*deep, *shallow])
    return Counter({key: deep[key] + steps * (deep[key] - shallow[key]) for key in keys})


class Exact(NamedTuple):
    """What the trace says: bytes per GPU, allocated."""

    moments: Mapping[str, Moment]  # by phase
    layers: int
    traced_layers: tuple[int, ...]  # the depths that were traced; the last is the model's own where it was traced whole
    seconds: float
    versions: Mapping[str, str]
    workspace_bytes: int
    recording: Recording
    reserved: Reserved | None = None

    @property
    def peak_phase(self) -> str:
        """The phase with the most."""
        return max(self.moments, key=lambda phase: self.moments[phase].total)

    @property
    def peak_bytes(self) -> int:
        """The most that is allocated, with the workspace of the products."""
        return self.moments[self.peak_phase].total + self.workspace_bytes

    def components(self) -> dict[str, int]:
        """Bytes at the peak by owner, most first."""
        peak = self.moments[self.peak_phase]
        parts: Counter[str] = Counter()
        for group, size in peak.bytes.items():
            parts[group.owner] += size
        parts["scratch of the kernel in flight"] += peak.scratch_bytes
        parts["cuBLAS workspace"] += self.workspace_bytes
        return {name: size for name, size in parts.most_common() if size}

    def as_json(self, estimated_bytes: int | None) -> dict[str, object]:
        """Give the facts for a program; `difference` is the estimate's, where there is one, as a share of the peak."""
        peak = self.moments[self.peak_phase]
        return {
            "peak_bytes": self.peak_bytes,
            "peak_phase": self.peak_phase,
            "difference": None if estimated_bytes is None else estimated_bytes / self.peak_bytes - 1,
            "components": [{"name": name, "bytes": size} for name, size in self.components().items()],
            "phases": {phase: moment.total + self.workspace_bytes for phase, moment in self.moments.items()},
            "largest_tensors": [_tensor_json(group, size, peak.counts[group]) for group, size in _largest(peak)],
            "layers": self.layers,
            "traced_layers": list(self.traced_layers),
            "seconds": round(self.seconds, 2),
            "versions": dict(self.versions),
        } | (self.reserved.as_json() if self.reserved else {})

    def as_text(self, estimated_bytes: int | None, unit: Unit) -> str:
        """Give the facts for a person, in the unit of the table above."""
        peak = self.moments[self.peak_phase]
        beside = ""
        if estimated_bytes is not None:
            beside = f"; the estimate is {signed_percent(estimated_bytes / self.peak_bytes - 1)}"
        depths = " and ".join(str(depth) for depth in self.traced_layers)
        rows = [f"{unit.of(size):>8}  {name}" for name, size in self.components().items()]
        tensors = [
            f"{unit.of(size):>8}  {peak.counts[group]} x {group.dtype} {list(group.shape)}: {group.owner}"
            for group, size in _largest(peak)
        ]
        return "\n".join(
            [
                f"EXACT, the real step traced with {depths} of {self.layers} layers in {self.seconds:.1f} s: "
                f"{unit.of(self.peak_bytes)} {unit.name} in the {self.peak_phase}{beside}",
                *([self.reserved.as_text(unit)] if self.reserved else []),
                *rows,
                f"Largest tensors at that moment, in {unit.name}:",
                *tensors,
            ]
        )


def _largest(peak: Moment) -> list[tuple[TensorGroup, int]]:
    return peak.bytes.most_common(MOST_TENSORS)


def _tensor_json(group: TensorGroup, size: int, count: int) -> dict[str, object]:
    return {
        "owner": group.owner,
        "operation": group.operation,
        "shape": list(group.shape),
        "dtype": group.dtype,
        "count": count,
        "bytes": size,
    }
