"""One run folder, one writer: a lock that ends with the process that holds it, so that none is ever stale."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lorafit.errors import RunInUse, StorageError
from lorafit.rundir.disk import storage_faults
from lorafit.rundir.holder import Holder, read_holder, this_process
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.store import Store

_MOVES_SURVIVED = 10  # times in a row that the folder may be moved aside while its lock is taken
_held: set[int] = set()  # descriptors of this process


def _forget_in_child() -> None:
    """A forked worker must not keep the lock alive when its parent is killed."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_forget_in_child)


class RunLock:
    """A context manager that holds `run.lock`; raises RunInUse at once if another process does.

    The exclusive lock (train) makes the folder and says in the file who holds it, for people only. The shared
    one (eval, merge, generate) needs nothing to be writable, and makes nothing.
    """

    def __init__(self, folder: RunFolder, *, shared: bool = False) -> None:
        self.folder = folder
        self.shared = shared
        self.left_by: Holder | None = None  # who held it last and did not let go: it was killed, or is elsewhere
        self._descriptor: int | None = None

    def acquire(self) -> "RunLock":
        """Take the lock; RunInUse if it is held, StorageError if the folder cannot be used."""
        with storage_faults(self.folder.lock):
            for _ in range(_MOVES_SURVIVED):
                try:
                    self._descriptor = self._take()
                    return self
                except FileNotFoundError:
                    if self.shared:  # nobody ever wrote here
                        return self
        raise RunInUse(
            "is moved aside again and again",
            where=str(self.folder.root),
            fix="start again when the other runs have ended",
            code="E9-MOVED",
        )

    def __enter__(self) -> "RunLock":
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let go of the lock; calling it twice does no harm."""
        if self._descriptor in _held:
            if not self.shared:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, 0)
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            _held.discard(self._descriptor)
        self._descriptor = None

    def _make_root(self) -> None:
        try:
            Store().make_folder(self.folder.root)
        except FileNotFoundError:  # as below /proc; of a lock it means another thing
            where, fix = str(self.folder.root), "choose another folder with --out"
            raise StorageError("cannot be made", where=where, fix=fix, code="E7-FOLDER") from None

    def _take(self) -> int:
        """Open and lock the file; FileNotFoundError if it is not, or no longer, there."""
        if not self.shared:
            self._make_root()
        descriptor = os.open(self.folder.lock, os.O_RDONLY if self.shared else os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            # `--fresh` of another process may have moved this very file aside after it was opened
            if not os.path.samestat(os.fstat(descriptor), self.folder.lock.stat()):
                raise FileNotFoundError
        except BlockingIOError:
            os.close(descriptor)
            raise self._refusal() from None
        except OSError:
            os.close(descriptor)
            raise
        _held.add(descriptor)
        if not self.shared:
            self.left_by = read_holder(self.folder.lock)
            this_process().sign(descriptor)
        return descriptor

    def _refusal(self) -> RunInUse:
        fix = "wait until it ends" if self.shared else "wait until it ends, or choose another folder with --out"
        return RunInUse(
            f"is in use {_in_use(self.folder.lock)}", where=str(self.folder.root), fix=fix, code="E9-LOCKED"
        )


def is_written(folder: RunFolder) -> bool:
    """Tell whether a process has the run open for writing."""
    try:
        RunLock(folder, shared=True).acquire().release()
    except RunInUse:
        return True
    return False


def _in_use(path: Path) -> str:
    """Describe who signed the file; it may have locked it a moment ago and be about to sign."""
    for _ in range(10):
        holder = read_holder(path)
        if holder is not None and holder.fate != "gone":  # one that was killed, and whose run is now only being read
            return f"by {holder}"
        time.sleep(0.02)
    return "by another lorafit command that reads it (eval, merge or generate)"
