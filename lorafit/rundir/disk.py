"""The few operations that change a disk, and what is said when one fails."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lorafit.errors import StorageError

# the number of the operating system's error: (code, how to mend it)
_FAULTS = {
    errno.ENOSPC: ("E7-NOSPACE", "free some space there, then run the command again"),
    errno.EDQUOT: ("E7-QUOTA", "free some of your quota there, then run the command again"),
    errno.EFBIG: ("E7-LIMIT", "raise the limit on the size of a file (ulimit -f)"),
    errno.EROFS: ("E7-READONLY", "choose a folder that can be written, with --out"),
    errno.EACCES: ("E7-PERMISSION", "choose a folder that you may write, with --out"),
    errno.EPERM: ("E7-PERMISSION", "choose a folder that you may write, with --out"),
    errno.EBUSY: ("E7-BUSY", "choose a folder that is not the root of a mount, with --out"),
    errno.EEXIST: ("E7-PATH", "a file of that name is in the way; choose another with --out"),
    errno.ENOTDIR: ("E7-PATH", "a part of this path is a file; choose another with --out"),
    errno.ENAMETOOLONG: ("E7-PATH", "choose a shorter path with --out"),
    errno.ELOOP: ("E7-PATH", "a link of this path leads in a circle"),
    errno.ENOLCK: ("E7-NOLOCK", "this file system has no locks; choose a local disk with --out"),
    errno.ENOTSUP: ("E7-NOLOCK", "this file system has no locks; choose a local disk with --out"),
    errno.ENOSYS: ("E7-NOLOCK", "this file system has no locks; choose a local disk with --out"),
    errno.EIO: ("E7-IO", "the device fails to read or write: look at the system's log before trusting it"),
    errno.ESTALE: ("E7-IO", "the network file system lost this folder; mount it again"),
}
_OS_ERROR_IN_TEXT = re.compile(r"\(os error (\d+)\)")


class Disk:
    """The operations that change a disk, so that a test can fail, cut short or forget each one of them."""

    def write(self, path: Path, data: bytes) -> None:
        """Make the file, or write over it."""
        path.write_bytes(data)

    def append(self, path: Path, data: bytes) -> None:
        """Write at the end of the file, made if need be."""
        with path.open("ab") as file:
            file.write(data)

    def fsync(self, path: Path) -> None:
        """Wait until the content of a file, or the list of names of a folder, would survive a power cut."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give it another name in the same file system, at once; a file that has that name is replaced."""
        source.rename(target)

    def mkdir(self, path: Path) -> None:
        """Make one folder, if it is not there."""
        path.mkdir(exist_ok=True)

    def unlink(self, path: Path) -> None:
        """Remove one file or link."""
        path.unlink()

    def rmdir(self, path: Path) -> None:
        """Remove one empty folder."""
        path.rmdir()


@contextmanager
def storage_faults(path: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn what a failing disk raises while `path` is written into a StorageError; let all else pass."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number not in _FAULTS:
            raise
        code, fix = _FAULTS[number]
        what = f"cannot be written: {os.strerror(number)}{_room(path, needed_bytes)}"
        raise StorageError(what, where=str(path), fix=fix, code=code) from error


def check_room(path: Path, needed_bytes: int) -> None:
    """Refuse with a StorageError what would not fit with a tenth to spare."""
    free_bytes = _free_bytes(path)
    if free_bytes is not None and free_bytes < 1.1 * needed_bytes:
        what = f"not enough space{_room(path, needed_bytes)}"
        raise StorageError(what, where=str(path), fix=_FAULTS[errno.ENOSPC][1], code="E7-NOSPACE")


def _error_number(error: Exception) -> int | None:
    """Find the operating system's number; a library in Rust (safetensors) gives it only in its text."""
    if isinstance(error, OSError):
        return error.errno
    found = _OS_ERROR_IN_TEXT.search(str(error))
    return int(found[1]) if found else None


def _room(path: Path, needed_bytes: int) -> str:
    free_bytes = _free_bytes(path)
    free = "" if free_bytes is None else f"; {_readable(free_bytes)} free there"
    return free + (f", {_readable(needed_bytes)} needed" if needed_bytes else "")


def _free_bytes(path: Path) -> int | None:
    """Ask the nearest folder that exists; a broken disk may not answer."""
    for folder in (path, *path.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def _readable(size_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
