"""One thing that was looked at: is it on, is it off and why, or does it stop work."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "on", "off", "broken"]


@dataclass(frozen=True)
class Finding:
    """`ok` is a fact, `on` and `off` are of a fast path or a feature, `broken` is what a run would fail on."""

    part: str
    name: str
    status: Status
    what: str
    fix: str = ""

    def as_json(self) -> dict[str, object]:
        """Give the same for a program."""
        return asdict(self)

    def as_line(self, width: int) -> str:
        """Put it in one line, its name padded to `width`."""
        remedy = f"; {self.fix}" if self.fix else ""
        mark = "" if self.status == "ok" else f"{self.status}: "
        return f"  {self.name:<{width}}  {mark}{self.what}{remedy}"


def as_lines(findings: Iterable[Finding]) -> list[str]:
    """Put findings in lines, names aligned."""
    found = list(findings)
    width = max((len(finding.name) for finding in found), default=0)
    return [finding.as_line(width) for finding in found]
