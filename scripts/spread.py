"""How far estimates lie from what they stand for."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


def relative_error(estimated_bytes: int, true_bytes: int) -> float:
    """As a share of the truth; above 0 where the estimate is too high."""
    return estimated_bytes / true_bytes - 1


@dataclass(frozen=True)
class Spread:
    """Absolute errors of several estimates, as shares."""

    count: int
    median: float
    high: float  # 95 of 100 are not above it
    worst: float

    @classmethod
    def of(cls, errors: Iterable[float]) -> "Spread":
        """Sum up at least one signed error."""
        sizes = sorted(abs(error) for error in errors)
        high = sizes[-(-95 * len(sizes) // 100) - 1]
        return cls(len(sizes), statistics.median(sizes), high, sizes[-1])

    def __str__(self) -> str:
        return (
            f"{self.count}: median {100 * self.median:.2f} %, 95th percentile {100 * self.high:.2f} %, "
            f"worst {100 * self.worst:.2f} %"
        )
