"""A picture of memory over a step: live bytes by what they are for, as an SVG that needs nothing to look at."""

from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from typing import NamedTuple

from lorafit.plan.units import Unit
from lorafit.plan.unroll import Recording

WIDTH, HEIGHT, LEFT, TOP, BELOW = 960, 360, 64, 40, 96
COLUMNS = 240  # moments drawn: of those that fall together, the fullest
WEIGHTS, STATES, KEPT = "weights and adapter", "optimizer states", "kept from the forward"
LOSS, GRADIENTS, WORKING = "logits and loss", "gradients and update", "the layer at work"
COLOURS = {
    WEIGHTS: "#4c78a8", STATES: "#72b7b2", KEPT: "#f2a541", GRADIENTS: "#8cb369", LOSS: "#b279a2", WORKING: "#e45756",
}  # fmt: skip


class Moment(NamedTuple):
    """What is live, by part, after so many births and deaths."""

    place: int
    live: Mapping[str, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.live.values())


def moments(recording: Recording) -> list[Moment]:
    """Sum up what is live after each birth and death of a step, by what it is for."""
    part_of = _parts(recording)
    sizes = dict([*recording.weights, *recording.states])
    live = Counter({WEIGHTS: sum(size for _, size in recording.weights)})
    live[STATES] = sum(size for _, size in recording.states)
    found = [Moment(0, dict(live))]
    for place, (number, size) in enumerate(recording.step, 1):
        live[part_of[number]] += size or -sizes[number]
        sizes[number] = size
        found.append(Moment(place, dict(live)))
    return found


def _parts(recording: Recording) -> dict[int, str]:
    """Tell what each tensor is for: by where it is made, and of a layer's backward by whether the update ends it."""
    parts = dict.fromkeys((number for number, _ in recording.weights), WEIGHTS)
    parts |= dict.fromkeys((number for number, _ in recording.states), STATES)
    for phase, events in _by_phase(recording):
        for number, size in events:
            if size:
                parts[number] = _made_in(phase)
            elif parts[number] == WORKING and _is_update(phase):
                parts[number] = GRADIENTS
    return parts


def _by_phase(recording: Recording) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    ends = [start for start, _ in recording.phases[1:]] + [len(recording.step)]
    for (start, phase), end in zip(recording.phases, ends, strict=True):
        yield phase, recording.step[start:end]


def _is_update(phase: str) -> bool:
    return not phase.startswith(("forward", "backward", "loss"))


def _made_in(phase: str) -> str:
    if "loss" in phase:
        return LOSS
    if _is_update(phase):
        return GRADIENTS
    return KEPT if phase.startswith("forward") else WORKING


def draw(recording: Recording, title: str) -> str:
    """Draw the areas over each other, the peak marked, the passes named below. Give the text of an SVG."""
    every = moments(recording)
    peak = max(every, key=lambda moment: moment.total)
    chosen = _thinned(every)
    across, up = (WIDTH - LEFT - 16) / len(recording.step), (HEIGHT - TOP) / peak.total

    def point(place: float, size: float) -> str:
        return f"{LEFT + place * across:.1f},{HEIGHT - size * up:.1f}"

    below = [0] * len(chosen)
    areas = []
    for part, colour in COLOURS.items():
        above = [base + moment.live.get(part, 0) for base, moment in zip(below, chosen, strict=True)]
        edge = [point(moment.place, size) for moment, size in zip(chosen, above, strict=True)]
        back = [point(moment.place, size) for moment, size in zip(chosen, below, strict=True)]
        areas.append(f'<polygon fill="{colour}" points="{" ".join([*edge, *reversed(back)])}"/>')
        below = above
    unit = Unit(peak.total)
    x, y = point(peak.place, peak.total).split(",")
    marks = [
        f'<line x1="{x}" y1="{y}" x2="{x}" y2="{HEIGHT}" stroke="black" stroke-dasharray="3 3"/>',
        f'<circle cx="{x}" cy="{y}" r="4"/>',
        _text(float(x) - 8, float(y) + 4, f"peak {unit.of(peak.total)} {unit.name}", "end"),
    ]
    return "\n".join(
        [_head(title), *areas, *_axis(peak.total), *marks, *_passes(recording, across), *_legend(), "</svg>\n"]
    )


def _thinned(every: list[Moment]) -> list[Moment]:
    size = max(1, len(every) // COLUMNS)
    return [max(every[at : at + size], key=lambda moment: moment.total) for at in range(0, len(every), size)]


def _head(title: str) -> str:
    height = HEIGHT + BELOW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13">\n<title>{escape(title)}</title>\n<rect width="{WIDTH}" height="{height}" fill="white"/>\n'
        f"{_text(LEFT, 20, title)}"
    )


def _axis(most: int) -> list[str]:
    steps, unit = 4, Unit(most)
    lines = []
    for index in range(steps + 1):
        y = HEIGHT - (HEIGHT - TOP) * index / steps
        lines.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - 16}" y2="{y}" stroke="black" stroke-opacity="0.15"/>')
        lines.append(_text(LEFT - 8, y + 4, unit.of(most * index // steps), "end"))
    return [*lines, _text(LEFT - 8, TOP - 12, unit.name, "end")]


def _passes(recording: Recording, across: float) -> list[str]:
    """Name each forward and backward pass where it begins; the update is too short for a name."""
    named, last = [], ""
    for start, phase in recording.phases:
        name = "" if _is_update(phase) else "backward" if phase.startswith("backward") else "forward"
        if name and name != last:
            named.append(_text(LEFT + start * across, HEIGHT + 18, name))
        last = name
    return named


def _legend() -> list[str]:
    rows = []
    for index, (part, colour) in enumerate(COLOURS.items()):
        x, y = LEFT + index % 3 * 290, HEIGHT + 38 + index // 3 * 22
        rows += [f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>', _text(x + 18, y + 11, part)]
    return rows


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
