"""What was wrong with the rows of a source: every one counted, the first of each kind shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lorafit.errors import Fault
from lorafit.recipe.formats import RowFault

SHOWN = 5
LISTED = 10_000  # bad rows kept by name, for the report; the count goes on


class DamagedFile(Exception):
    """A file that cannot be read as what it says it is."""

    def __init__(self, what: str, code: str, fix: str = "") -> None:
        super().__init__(what)
        self.what, self.code, self.fix = what, code, fix


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be used: where it stands, why not, and what was found there."""

    where: str
    reason: str
    code: str
    found: str = ""

    @property
    def place(self) -> tuple[str, int]:
        """Give the file and the line, to sort by."""
        file, _, line = self.where.rpartition(":")
        return file, int(line)


@dataclass
class ReadLog:
    """What reading a source met: bad rows (which may be skipped), faults (which may not), remarks."""

    bad: list[BadRow] = field(default_factory=list)
    bad_count: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def bad_row(self, where: str, fault: RowFault) -> None:
        """Count a bad row, and list it."""
        self.bad_count += 1
        if len(self.bad) < LISTED:
            self.bad.append(BadRow(where, fault.reason, fault.code, fault.found))

    def fault(self, what: str, where: str, code: str, fix: str = "") -> None:
        """Note something that no setting skips."""
        self.faults.append(Fault(what, where, fix, code))

    def note(self, text: str) -> None:
        """Make a remark, once."""
        if text not in self.notes:
            self.notes.append(text)


def grouped(rows: Sequence[BadRow], fix: str) -> list[Fault]:
    """Give one fault for each kind of bad row: its first place, how many there are, the next few places."""
    kinds: dict[tuple[str, str], list[BadRow]] = {}
    for row in sorted(rows, key=lambda row: row.place):
        kinds.setdefault((row.code, row.reason), []).append(row)
    return [Fault(_described(same), same[0].where, fix, same[0].code) for same in kinds.values()]


def _described(rows: Sequence[BadRow]) -> str:
    what = rows[0].reason + (f" ({rows[0].found})" if rows[0].found else "")
    if len(rows) == 1:
        return what
    places = ", ".join(row.where.rpartition("/")[2] for row in rows[:SHOWN])
    return f"{what} ({len(rows):,} such rows; first {min(SHOWN, len(rows))}: {places})"
