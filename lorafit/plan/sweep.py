"""One setting over a range of values: the memory of each, as a table."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from lorafit.errors import RecipeError
from lorafit.plan.base_config import positions, rows_beyond
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion, Verdict
from lorafit.plan.units import Unit
from lorafit.recipe.adapters import Full

NO_CONFIG: Mapping[str, object] = {}
MOST_VALUES = 32
MOST_DIGITS = 12  # Python reads no number of thousands
WIDTH = 40  # characters of the longest bar
_RANGE = re.compile(
    r"((?:data\.)?max_length|(?:training\.)?micro_batch_size|(?:adapter\.)?rank)="
    r"(\d+k?)(?:\.\.(\d+k?)|((?:,\d+k?)*))"
)


def _with_length(question: MemoryQuestion, value: int) -> MemoryQuestion:
    return replace(question, max_length=value)


def _with_rows(question: MemoryQuestion, value: int) -> MemoryQuestion:
    return replace(question, micro_batch_size=value)


def _with_rank(question: MemoryQuestion, value: int) -> MemoryQuestion:
    if isinstance(question.adapter, Full):
        raise _fault("full fine-tuning has no rank")
    return replace(question, adapter=question.adapter.model_copy(update={"rank": value}))


SETTINGS: dict[str, Callable[[MemoryQuestion, int], MemoryQuestion]] = {
    "max_length": _with_length,
    "micro_batch_size": _with_rows,
    "rank": _with_rank,
}
LIMITS = {"max_length": (8, 10**7), "micro_batch_size": (1, 10**6), "rank": (1, 4096)}  # those of a recipe


class Point(NamedTuple):
    """One value of the setting, and the memory it takes."""

    value: int
    peak_bytes: int
    on_card_bytes: int
    peak_phase: str
    verdict: Verdict | None  # on the card, where one was named


class Sweep(NamedTuple):
    """The table."""

    setting: str
    points: list[Point]
    note: str = ""  # of rows that are longer than the model was made for
    positions: int | None = None  # that it was made for, where the setting is the length of a row

    def as_json(self) -> list[dict[str, object]]:
        """Give one object for each value."""
        return [
            {
                self.setting: point.value,
                "peak_bytes": point.peak_bytes,
                "on_card_bytes": point.on_card_bytes,
                "peak_phase": point.peak_phase,
                "fits": None if point.verdict is None else point.verdict != "does not fit",
                "verdict": point.verdict,
                "beyond_positions": self.positions is not None and point.value > self.positions,
            }
            for point in self.points
        ]

    def as_text(self) -> str:
        """Draw a bar for each value."""
        most = max(point.on_card_bytes for point in self.points)
        unit = Unit(max(point.peak_bytes for point in self.points))
        lines = [f"{self.setting:>16}  {'peak':>8}  {'on card':>8}  {unit.name}"]
        lines += [
            f"{point.value:>16,}  {unit.of(point.peak_bytes):>8}  {unit.of(point.on_card_bytes):>8}  "
            f"{'#' * max(1, round(WIDTH * point.on_card_bytes / most))}{_mark(point)}"
            for point in self.points
        ]
        return "\n".join([*lines, *([self.note] if self.note else [])])


def _mark(point: Point) -> str:
    return f" {point.verdict}" if point.verdict not in (None, "fits") else ""


def sweep(
    text: str, question: MemoryQuestion, capacity_bytes: int | None, config: Mapping[str, object] = NO_CONFIG
) -> Sweep:
    """Answer for each value of `max_length=1k..64k` (doubling) or `rank=8,16,64`; `config` is the base's config.json.

    Raises RecipeError.
    """
    found = _RANGE.fullmatch(text.replace(" ", ""))
    if found is None:
        raise _fault(f"{text!r} is no setting with a range")
    values = [_number(found[2]), _number(found[3])] if found[3] else _listed(found[2] + (found[4] or ""))
    setting = found[1].rpartition(".")[2]
    least, most = LIMITS[setting]
    if beyond := [value for value in values if not least <= value <= most]:
        raise _fault(f"{setting} is from {least:,} to {most:,}, and {beyond[0]:,} is not")
    if found[3]:
        values = _doubled(*values)
    change = SETTINGS[setting]
    made = Sweep(setting, [_point(value, change(question, value), capacity_bytes) for value in values])
    if setting != "max_length":
        return made
    return made._replace(note=rows_beyond(max(values), config), positions=positions(config))


def _point(value: int, question: MemoryQuestion, capacity_bytes: int | None) -> Point:
    found = estimate(question)
    verdict = None if capacity_bytes is None else found.verdict(capacity_bytes)
    return Point(value, found.peak_bytes, found.on_card_bytes, found.peak_phase, verdict)


def _number(text: str) -> int:
    """A plain number, or thousands of 1,024."""
    if len(text) > MOST_DIGITS:
        raise _fault(f"{text[:MOST_DIGITS]}... is out of range")
    return int(text.removesuffix("k")) * (1024 if text.endswith("k") else 1)


def _doubled(low: int, high: int) -> list[int]:
    if high < low:
        raise _fault("the range ends before it begins")
    values = [low]
    while values[-1] * 2 <= high:
        values.append(values[-1] * 2)
    return values if values[-1] == high else [*values, high]


def _listed(text: str) -> list[int]:
    values = [_number(part) for part in text.split(",")]
    if len(values) > MOST_VALUES:
        raise _fault(f"{len(values)} values are too many")
    return values


def _fault(what: str) -> RecipeError:
    return RecipeError(
        what,
        where="--sweep",
        fix="write max_length=1k..64k, micro_batch_size=1..16, or rank=8,16,64",
        code="E2-USAGE",
    )
