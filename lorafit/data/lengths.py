"""Rows longer than the model is to see: an error, left out, or cut, and always counted."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from lorafit.data.tokens import Encoded
from lorafit.errors import Fault

OnOverlong = Literal["error", "drop", "truncate"]


@dataclass
class Overlong:
    """The rows of a source above `max_length`, as they go by."""

    max_length: int
    policy: OnOverlong
    count: int = 0
    dropped: int = 0
    truncated: int = 0
    longest: int = 0
    places: list[str] = field(default_factory=list)

    def fit(self, row: Encoded, place: str) -> tuple[Encoded | None, bool]:
        """Give the row as it may be kept (None: not at all), and whether its end was cut off."""
        self.longest = max(self.longest, len(row.tokens))
        if len(row.tokens) <= self.max_length:
            return row, False
        self.count += 1
        if len(self.places) < 5:
            self.places.append(place)
        cut = _cut(row, self.max_length)
        if self.policy == "drop" or not (cut.label is not None or cut.trained[1:].any()):
            self.dropped += 1
            return None, False
        self.truncated += 1
        return cut, True

    def fault(self, source: str, rows: int) -> list[Fault]:
        """Give the fault of a source with overlong rows, when they are an error."""
        if self.policy != "error" or not self.count:
            return []
        share = 100 * self.count / max(1, rows)
        what = (
            f"{self.count:,} of {rows:,} rows ({share:.2g}%) are longer than max_length {self.max_length:,}: "
            f"the longest has {self.longest:,} tokens (first: {', '.join(self.places)})"
        )
        fix = f"set data.max_length: {self.longest}, or data.on_overlong: drop or truncate"
        return [Fault(what, source, fix, "E3-OVERLONG")]


def _cut(row: Encoded, length: int) -> Encoded:
    """Cut the end off; a row with a class keeps its last token, where the class is read."""
    kept = np.arange(length)
    if row.label is not None:
        kept[-1] = len(row.tokens) - 1
    return replace(row, tokens=row.tokens[kept], trained=row.trained[kept])
