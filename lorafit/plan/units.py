"""The one rule for units of memory: GiB, or MiB throughout where the sum that an answer is about is below a GiB.

And how far off something is, in per cent.
"""

MIB, GIB = 2**20, 2**30


class Unit:
    """The unit of an answer; cards are told in GiB always."""

    def __init__(self, largest_bytes: int) -> None:
        self.name, self.size = ("GiB", GIB) if largest_bytes >= GIB else ("MiB", MIB)

    def of(self, count: int) -> str:
        """Give bytes in this unit, without its name."""
        return f"{count / self.size:.2f}"


def signed_percent(share: float) -> str:
    """Give a share with its sign, and what rounds to nothing without one."""
    text = f"{100 * share:+.1f}"
    return f"{text if float(text) else '0.0'} %"
