"""Small line charts as SVG text: dots are measured, the line is expected; both axes in powers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 250, 170
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 26, 34
COLUMNS = 4
INK, SOFT, DOT = "#333", "#bbb", "#c2410c"


@dataclass(frozen=True)
class Panel:
    """One chart: values on the x axis, measured and expected on the y axis."""

    title: str
    unit: str
    values: Sequence[float]
    measured: Sequence[float]
    expected: Sequence[float]


def picture(panels: Sequence[Panel]) -> str:
    """Lay charts out in two rows: every other one in the second."""
    rows = [panels[0::2], panels[1::2]]
    columns = min(COLUMNS, max(len(row) for row in rows))
    wide, high = WIDTH * columns, HEIGHT * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        f'font-family="sans-serif" font-size="10" fill="{INK}">',
        f'<rect width="{wide}" height="{high}" fill="white"/>',
    ]
    for down, row in enumerate(rows):
        for across, panel in enumerate(row):
            parts.append(f'<g transform="translate({across * WIDTH},{down * HEIGHT})">{_chart(panel)}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _chart(panel: Panel) -> str:
    heights = [*panel.measured, *panel.expected]
    low, high = 10 ** math.floor(math.log10(min(heights))), 10 ** math.ceil(math.log10(max(heights) * 1.0001))
    first, last = panel.values[0], panel.values[-1]

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(value / first) / math.log(last / first)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(value / low) / math.log(high / low)

    lines = [f'<text x="{LEFT}" y="14" font-weight="bold">{escape(panel.unit)} over {escape(panel.title)}</text>']
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = y(10.0**power)
        lines.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="{SOFT}" stroke-width=".5"/>')
        lines.append(f'<text x="{LEFT - 5}" y="{at + 3:.1f}" text-anchor="end">{10**power:,}</text>')
    for value in panel.values:
        lines.append(f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{_short(value)}</text>')
    track = " ".join(f"{x(v):.1f},{y(e):.1f}" for v, e in zip(panel.values, panel.expected, strict=True))
    lines.append(f'<polyline points="{track}" fill="none" stroke="{INK}"/>')
    for value, height in zip(panel.values, panel.measured, strict=True):
        lines.append(f'<circle cx="{x(value):.1f}" cy="{y(height):.1f}" r="3" fill="{DOT}"/>')
    return "".join(lines)


def _short(value: float) -> str:
    return f"{value / 1024:g}k" if value >= 1024 else f"{value:g}"
