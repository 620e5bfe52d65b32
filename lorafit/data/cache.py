"""Tokenised sources on disk, found again by what they were made of: whole, or not there.

An entry is a committed folder: its files are on the disk before it has its name. At a hit the sizes of all files are
checked, and the content of the small ones (the table of rows and the report); the tokens are checked row by row, by
the hash that the table holds, when a batch takes them. So a hit reads no token, and a flipped bit trains none.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lorafit.data.report import SourceReport
from lorafit.data.row_files import TABLE, RowWriter, mapped
from lorafit.data.token_rows import TokenRows
from lorafit.errors import MachineError, StorageError, first_line
from lorafit.rundir.commit import Commit, check_sizes, hash_file
from lorafit.rundir.store import Store, is_leftover

ENTRY, LOCK = "entry", "lock"
DEFAULT_GIB, MOST_GIB = 50.0, 10**6
OFF = "off"
KEY = re.compile("[0-9a-f]{40}")  # the name of an entry's folder


@dataclass(frozen=True)
class Loaded:
    """The rows of a source in tokens, and their account."""

    rows: TokenRows
    report: SourceReport
    tokenizer_hash: str = ""  # of the Rust tokenizer, "" when it was not asked for
    from_cache: bool = False


class NotKept(Exception):
    """Raised while an entry is made, to leave none."""


@dataclass
class Cache:
    """Entries under a folder. `troubles` says, once each, why it could not be used."""

    root: Path
    limit_bytes: int
    store: Store = field(default_factory=Store)
    troubles: list[str] = field(default_factory=list)

    def find(self, key: str) -> Loaded | None:
        """Give the rows of an entry, None where there is none or it is damaged."""
        entry = self.root / key / ENTRY
        try:
            facts = _checked(entry).facts
            report = SourceReport.from_json(facts["report"])
            rows = mapped(entry, facts["files"], facts["labels"])
            with suppress(OSError):  # a cache that may not be written is read all the same
                os.utime(self.root / key)  # when it was last of use
        except (StorageError, OSError, KeyError, TypeError, ValueError):
            return None
        return Loaded(rows, report, facts["tokenizer"], from_cache=True)

    @contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """Wait until no other process makes this entry. Raises StorageError where no lock can be had."""
        folder = self.root / key
        with _held(partial(self._lock, folder)):
            self.store.sweep(folder)
            yield

    def keep(self, key: str, make: Callable[[RowWriter], SourceReport], tokenizer: str) -> Loaded:
        """Make an entry, in the turn for it, and map it.

        Raises StorageError when it cannot be written, what `make` raises otherwise; then nothing is left.
        """
        facts: dict[str, Any] = {}

        def fill(folder: Path) -> None:
            with RowWriter(folder) as writer:
                facts["report"] = make(writer).as_json()
            facts.update(files=list(writer.files), labels=list(writer.labels), tokenizer=tokenizer)

        self.store.commit_folder(self.root / key / ENTRY, fill, facts, replace=True)
        found = self.find(key)
        if found is None:
            raise StorageError(
                "cannot be read back",
                where=str(self.root / key),
                fix="look for room and rights on that disk, or set LORAFIT_CACHE=off",
                code="E7-CACHE",
            )
        return replace(found, from_cache=False)

    def _lock(self, folder: Path) -> int:
        """Wait for the lock in a folder, made if need be."""
        while True:
            self.store.make_folder(folder)
            with suppress(FileNotFoundError):  # the folder was tidied away before the lock was in it
                taken = _taken(folder / LOCK, os.O_CREAT, 0)
                if taken is not None:
                    return taken

    def trim(self) -> None:
        """Remove the entries that were not used for the longest, and what a killed process left half made."""
        with suppress(OSError, StorageError):
            folders = sorted(filter(_is_ours, self.root.iterdir()), key=lambda folder: -folder.stat().st_mtime)
            total = 0
            for folder in folders:
                total += _size_bytes(folder)
                self._tidy(folder, remove=total > self.limit_bytes)

    def _tidy(self, folder: Path, *, remove: bool) -> None:
        """Clean up in one folder, unless another process is at work there."""
        with suppress(OSError, StorageError), _held(partial(_taken, folder / LOCK, 0, fcntl.LOCK_NB)) as taken:
            if taken is None:
                return
            self.store.sweep(folder)
            if remove and (folder / ENTRY).exists():
                self.store.remove(folder / ENTRY)
            if not (folder / ENTRY).exists():
                (folder / LOCK).unlink()
                folder.rmdir()

    def trouble(self, error: StorageError | OSError) -> None:
        """Note why the cache is not used."""
        text = f"data: not kept in the cache: {error}"
        if text not in self.troubles:
            self.troubles.append(text)


def default_cache() -> Cache | None:
    """Give the cache in $LORAFIT_CACHE, $XDG_CACHE_HOME/lorafit or ~/.cache/lorafit; None when it is `off`."""
    named = os.environ.get("LORAFIT_CACHE", "")
    if named == OFF:
        return None
    limit_bytes = _limit_bytes()
    if named:
        return Cache(_expanded(named) / "data", limit_bytes)
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorafit"
    except RuntimeError:  # no home
        return None
    return Cache(folder / "data", limit_bytes)


def _expanded(named: str) -> Path:
    """Give the folder that the environment names. MachineError when it is in the home of nobody."""
    try:
        return Path(named).expanduser()
    except RuntimeError as error:
        raise MachineError(
            f"LORAFIT_CACHE is {named!r}: {first_line(error)}",
            fix="name a folder, or set LORAFIT_CACHE=off for no cache",
            code="E5-CACHE-FOLDER",
        ) from None


def _limit_bytes() -> int:
    """Read the size from the environment. MachineError when it is no size."""
    given = os.environ.get("LORAFIT_CACHE_GIB", "")
    try:
        size = float(given) if given else DEFAULT_GIB
    except ValueError:
        size = -1.0
    if not 0 <= size <= MOST_GIB:
        raise MachineError(
            f"LORAFIT_CACHE_GIB is {given!r}, expected a number of GiB from 0 to {MOST_GIB:,}",
            fix=f"unset it ({DEFAULT_GIB:g} GiB), or set LORAFIT_CACHE=off for no cache",
            code="E5-CACHE-SIZE",
        )
    return int(size * 2**30)


def _checked(entry: Path) -> Commit:
    """Check an entry as far as that is cheap. StorageError when it is not what was written."""
    commit = check_sizes(entry)
    hashes = {file.name: file.sha256 for file in commit.files}
    if hash_file(entry / TABLE).sha256 != hashes[TABLE]:
        raise StorageError(
            "is damaged", where=str(entry), fix="delete that folder: the rows are prepared anew", code="E7-CACHE"
        )
    return commit


def _is_ours(folder: Path) -> bool:
    """Tell a folder that `turn` made, and that holds what we write, from what somebody else keeps here."""
    if not KEY.fullmatch(folder.name) or folder.is_symlink() or not (folder / LOCK).is_file():
        return False
    return all(path.name in (ENTRY, LOCK) or is_leftover(path) for path in folder.iterdir())


def _taken(path: Path, create: int, wait: int) -> int | None:
    """Lock a file; None when it was tidied away meanwhile. OSError when it cannot be had."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | create, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | wait)
        if os.path.lexists(path) and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


@contextmanager
def _held(take: Callable[[], int | None]) -> Iterator[int | None]:
    """Hold the lock that `take` gives; it ends with the process."""
    descriptor = take()
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a forked process has it too
            os.close(descriptor)


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
