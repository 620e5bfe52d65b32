"""What can go wrong, as a tree whose leaves are the exit codes.

LorafitError
├── RecipeError        2   command line or recipe
├── DataError          3   data
├── ModelError         4   model, tokenizer or adapter
├── MachineError       5   environment: GPU, driver, library
├── OutOfMemory        6   memory of the device
├── StorageError       7   disk: full, quota, read-only, I/O
├── NumericalError     8   NaN, infinity, divergence
├── RunInUse           9   run folder in use, or already used
├── ResumeRefused     10   no valid checkpoint, or the recipe or the data changed
├── RankLost          11   a process of a distributed run was lost
├── SafetyRefusal     12   code, pickle, path or secret refused
└── Stopped           75   stopped on request, checkpoint committed: run again to continue

Exit code 0 means finished and verified, 1 a bug in lorafit, 130 and 143 a second signal.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

SHOWN_LINES = 20
# what the machine refuses: whoever runs the command can mend it. Other errors of files are bugs of ours
_THE_MACHINES = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EMFILE,
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: what happened, where, how to mend it, and its code."""

    what: str
    where: str = ""
    fix: str = ""
    code: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f"; {self.fix}" if self.fix else ""
        return f"{place}{self.what}{remedy}" + (f"  [{self.code}]" if self.code else "")


class LorafitError(Exception):
    """The user's to mend: carries every fault that was found, one line each."""

    exit_code: ClassVar[int] = 1
    otherwise: ClassVar[str] = "`--help` tells what a command takes"  # the remedy of a fault that names none

    def __init__(self, what: str | Sequence[Fault], *, where: str = "", fix: str = "", code: str = "") -> None:
        self.faults = [Fault(what, where, fix, code)] if isinstance(what, str) else list(what)
        super().__init__("\n".join(_shown(self.faults)))

    def as_json(self) -> dict[str, object]:
        """Give the same facts to a program: `{"error": {"exit_code", "faults": [...]}}`."""
        faults = [
            {"code": f.code, "what": f.what, "where": f.where, "fix": f.fix or self.otherwise} for f in self.faults
        ]
        return {"error": {"exit_code": self.exit_code, "faults": faults}}


class RecipeError(LorafitError):
    """The command line or the recipe is wrong."""

    exit_code = 2
    otherwise = "give what is expected there; `lorafit schema` tells what each key takes"


class DataError(LorafitError):
    """A row, a file or a split of the data is wrong."""

    exit_code = 3
    otherwise = "mend the data, or leave the row out; `lorafit preview` shows the rows as they are read"


class ModelError(LorafitError):
    """The model, tokenizer or adapter is missing, invalid or does not fit the recipe."""

    exit_code = 4


class MachineError(LorafitError):
    """This machine lacks what the recipe needs: a GPU, a driver, a library."""

    exit_code = 5


class OutOfMemory(LorafitError):
    """The device ran out of memory at the smallest micro-batch."""

    exit_code = 6


class StorageError(LorafitError):
    """The disk is full, read-only, over quota or broken."""

    exit_code = 7


class NumericalError(LorafitError):
    """A loss or a gradient is not finite."""

    exit_code = 8


class RunInUse(LorafitError):
    """Another process holds the run folder, or it holds a run that was not asked for."""

    exit_code = 9


class ResumeRefused(LorafitError):
    """There is nothing valid to resume, or what is there belongs to another recipe."""

    exit_code = 10


class RankLost(LorafitError):
    """A process of a distributed run died or stopped answering."""

    exit_code = 11


class SafetyRefusal(LorafitError):
    """A file asked to run code, or a path or a secret is not acceptable."""

    exit_code = 12


class Stopped(LorafitError):
    """Stopped on request; a checkpoint is committed."""

    exit_code = 75


def _shown(faults: list[Fault]) -> list[str]:
    """Give the lines for a person; `as_json` has them all."""
    if len(faults) <= SHOWN_LINES:
        return [str(fault) for fault in faults]
    kept = faults[: SHOWN_LINES - 1]
    return [*(str(fault) for fault in kept), f"and {len(faults) - len(kept)} more"]


def first_line(error: BaseException) -> str:
    """Give a library's message in one bounded line, to quote in our own."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def refused_by_machine(error: OSError) -> StorageError | None:
    """Give the user's error for what rights, a disk or a file system refused; None for what is our own bug."""
    if error.errno not in _THE_MACHINES:
        return None
    return StorageError(
        f"cannot be read or written: {error.strerror}",
        where=str(error.filename or ""),
        fix="give another path, or mend its rights or its disk",
        code="E7-IO",
    )
