"""Bytes of a layer by what they grow with: what they come to, and the arithmetic in words."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """Bytes of a layer: for each symbol and width the bytes per unit and token, and a constant."""

    per_token: Counter[tuple[str, int]]
    constant: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(self.per_token + other.per_token, self.constant + other.constant)

    def times(self, count: int) -> "Load":
        """The same for so many layers."""
        return Load(Counter({width: size * count for width, size in self.per_token.items()}), self.constant * count)

    def total(self, tokens: int) -> int:
        """Bytes at so many tokens."""
        return tokens * sum(size * width for (_, width), size in self.per_token.items()) + self.constant

    def formula(self, tokens: int) -> str:
        """The same as text, largest term first."""
        terms = sorted(self.per_token.items(), key=lambda term: -term[0][1] * term[1])
        inner = " + ".join(f"{size} x {width:,} {symbol}" for (symbol, width), size in terms if size)
        rest = f" + {self.constant:,}" if self.constant else ""
        return f"{tokens:,} tokens x ({inner}){rest}" if inner else f"{self.constant:,}"


NOTHING = Load(Counter())
