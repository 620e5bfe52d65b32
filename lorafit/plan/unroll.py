"""The births and deaths of a deep model's step, from those of a shallow one: the middle layer's are repeated."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from lorafit.plan.allocator import Event

NEAR = 2  # layers: an input that goes to the host leaves when the layer above has its own
_OF_LAYER = re.compile(r"(.*) of layer (\d+)")

Home = tuple[int | None, str, int]  # the layer that a tensor belongs to, the part of the step it was made in, its place


class Recording(NamedTuple):
    """A traced step: what is held before it, then what comes and goes."""

    weights: list[Event]
    states: list[Event]  # of the optimizer: made at the end of the first step
    step: list[Event]
    phases: list[tuple[int, str]]  # the index in `step` at which each phase begins
    layer_of: Mapping[int, int]  # the layer that a held tensor belongs to
    layers: int


@dataclass
class _Segment:
    """Consecutive events of a step, in a layer or between layers."""

    part: str
    layer: int | None
    events: list[Event]


def unrolled(recording: Recording, shallower: Recording, layers: int) -> Recording:
    """Give the step with so many layers; `shallower` has one layer less, by which tensors that span layers grow."""
    if recording.layers == layers:
        return recording
    return _Unroller(recording, _sizes_between_layers(shallower), layers).unroll()


def training(recording: Recording) -> Iterator[Event]:
    """Two steps as a run takes them: the first makes the optimizer's states, while its gradients are there."""
    updates = [start for start, name in recording.phases if name.startswith("optimizer step")]
    update = updates[-1] if updates else len(recording.step)
    yield from recording.weights
    yield from recording.step[:update]
    yield from recording.states
    yield from recording.step[update:]
    yield from recording.step


def _segments(recording: Recording) -> list[_Segment]:
    """Cut the step at its phases; what lies between two layers is the former's."""
    ends = [start for start, _ in recording.phases[1:]] + [len(recording.step)]
    pieces = [(name, recording.step[start:end]) for (start, name), end in zip(recording.phases, ends, strict=True)]
    named = [(_OF_LAYER.fullmatch(name), name, events) for name, events in pieces]
    seen: Counter[str] = Counter()
    found: list[_Segment] = []
    for index, (of_layer, name, events) in enumerate(named):
        between = found and found[-1].layer is not None and index + 1 < len(named) and named[index + 1][0]
        if of_layer is None and between:
            found[-1].events += events
            continue
        seen[name] += 1
        kind, layer = (of_layer[1], int(of_layer[2])) if of_layer else (name, None)
        found.append(_Segment(f"{kind} {seen[name]}", layer, list(events)))
    return found


def _homes(recording: Recording) -> dict[int, tuple[Home, int]]:
    """Say of every tensor where it belongs, and its bytes."""
    places: Counter[tuple[int | None, str]] = Counter()
    homes: dict[int, tuple[Home, int]] = {}

    def settle(layer: int | None, part: str, events: Iterable[Event]) -> None:
        for number, size in events:
            if size:
                homes[number] = ((layer, part, places[layer, part]), size)
                places[layer, part] += 1

    for event in [*recording.weights, *recording.states]:
        settle(recording.layer_of.get(event[0]), "held", [event])
    for segment in _segments(recording):
        settle(segment.layer, segment.part, segment.events)
    return homes


def _sizes_between_layers(recording: Recording) -> dict[Home, int]:
    return {home: size for home, size in _homes(recording).values() if home[0] is None}


@dataclass
class _Unroller:
    recording: Recording
    shallower: Mapping[Home, int]
    layers: int
    numbers: dict[Home, int] = field(default_factory=dict)
    live: set[Home] = field(default_factory=set)

    def unroll(self) -> Recording:
        self.homes = _homes(self.recording)
        self.middle = self.recording.layers - 2
        weights = list(self._held(self.recording.weights))
        states = list(self._held(self.recording.states))
        step: list[Event] = []
        phases: list[tuple[int, str]] = []
        for segment, layer in self._placed():
            name = segment.part if layer is None else f"{segment.part} of layer {layer}"
            phases.append((len(step), name))
            step += self._held(segment.events) if layer is None else self._of_layer(segment, layer)
        return Recording(weights, states, step, phases, {}, self.layers)

    def _placed(self) -> Iterator[tuple[_Segment, int | None]]:
        """Every segment with the layer it stands for, the middle one as often as there are layers like it."""
        segments = _segments(self.recording)
        for index, segment in enumerate(segments):
            if segment.layer != self.middle:
                yield segment, None if segment.layer is None else self._place(segment.layer)
                continue
            copies: Iterable[int] = range(self.middle, self.layers - 1)
            upward = index > 0 and segments[index - 1].layer == self.middle - 1
            for layer in copies if upward else reversed(list(copies)):
                yield segment, layer

    def _place(self, layer: int) -> int:
        """The layer of the deep model: the last stays the last."""
        return layer if layer <= self.middle else layer + self.layers - self.recording.layers

    def _held(self, events: Iterable[Event]) -> Iterator[Event]:
        """Between layers: what concerns the middle layer is repeated for all layers like it."""

        def layer_of(event: Event) -> int | None:
            return self.homes[event[0]][0][0]

        for layer, run in groupby(events, layer_of):
            together = list(run)
            if layer is None:
                copies: Iterable[int | None] = [None]
            else:
                copies = range(self.middle, self.layers - 1) if layer == self.middle else [self._place(layer)]
            for copy in copies:
                for number, size in together:
                    _, part, place = self.homes[number][0]
                    yield from self._event((copy, part, place), self._extended(number, size))

    def _of_layer(self, segment: _Segment, layer: int) -> Iterator[Event]:
        """In a layer: what is of a layer so near is of the layer as near in the deep model too."""
        assert segment.layer is not None
        shift = layer - segment.layer
        for number, size in segment.events:
            owner, part, place = self.homes[number][0]
            if owner is not None:
                owner = owner + shift if abs(owner - segment.layer) <= NEAR else self._place(owner)
            yield from self._event((owner, part, place), self._extended(number, size))

    def _extended(self, number: int, size: int) -> int:
        """A tensor over all layers grows by each as much as by the last."""
        home, own = self.homes[number]
        if not size or home[0] is not None:
            return size
        return size + (self.layers - self.recording.layers) * (own - self.shallower.get(home, own))

    def _event(self, home: Home, size: int) -> Iterator[Event]:
        """A birth, or the death of what lives: of copies, only the first can end what they share."""
        if size:
            self.live.add(home)
            yield self.numbers.setdefault(home, len(self.numbers)), size
        elif home in self.live:
            self.live.remove(home)
            yield self.numbers[home], 0
