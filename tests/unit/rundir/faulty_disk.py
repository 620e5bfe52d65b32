"""Disks that are cut short, fail, or forget: a model of what storage may do to a run."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from lorafit.errors import StorageError
from lorafit.rundir.disk import Disk
from lorafit.rundir.store import Store

T = TypeVar("T")
Pick = Callable[[Sequence[T]], T]


class Crash(BaseException):
    """The process is gone: nothing may catch this as an error."""


class QuickDisk(Disk):
    """A disk for tests that are not about power cuts."""

    def fsync(self, path: Path) -> None:
        assert path.exists()


class WatchedDisk(QuickDisk):
    """Calls `step` before each operation."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, name: str, path: Path) -> None:
        self.steps.append(f"{name} {path.name}")

    def write(self, path: Path, data: bytes) -> None:
        self.step("write", path)
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        self.step("append", path)
        super().append(path, data)

    def fsync(self, path: Path) -> None:
        self.step("fsync", path)
        super().fsync(path)

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename", target)
        super().rename(source, target)

    def mkdir(self, path: Path) -> None:
        self.step("mkdir", path)
        super().mkdir(path)

    def unlink(self, path: Path) -> None:
        self.step("unlink", path)
        super().unlink(path)

    def rmdir(self, path: Path) -> None:
        self.step("rmdir", path)
        super().rmdir(path)


class FailingDisk(WatchedDisk):
    """Raises an error of the operating system at operation `at`, or, if it `stays` so, from there on."""

    def __init__(self, at: int, number: int, *, stays: bool = False) -> None:
        super().__init__()
        self.at, self.number, self.stays = at, number, stays

    @property
    def failed(self) -> bool:
        return len(self.steps) > self.at

    def step(self, name: str, path: Path) -> None:
        super().step(name, path)
        now = len(self.steps) - 1
        if now == self.at or (self.stays and now > self.at):
            raise OSError(self.number, os.strerror(self.number), str(path))

    def write(self, path: Path, data: bytes) -> None:
        try:
            super().write(path, data)
        except OSError:
            path.write_bytes(data[: len(data) // 2])  # a full disk takes what still fits
            raise


class CrashingDisk(WatchedDisk):
    """Stops before operation `at`, and knows what a power cut at that moment may leave.

    Of a file, the bytes of its last fsync survive, or all, or half of what was written since. Of a folder, the
    names that it had at its last fsync, or at any moment since. Each file and each folder fares on its own.
    """

    def __init__(self, root: Path, at: int) -> None:
        super().__init__()
        self.at = at
        self._open: dict[int, int] = {}  # inode -> descriptor, which keeps the inode from being used again
        self._durable: dict[int, bytes] = {}
        self._names: dict[int, list[dict[str, int]]] = {}
        self._root = self._meet(root)
        for path in (root, *root.rglob("*")):
            self._settle(self._meet(path))

    def step(self, name: str, path: Path) -> None:
        if len(self.steps) >= self.at:
            raise Crash
        super().step(name, path)

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data)
        self._look(path.parent)

    def append(self, path: Path, data: bytes) -> None:
        super().append(path, data)
        self._look(path.parent)

    def fsync(self, path: Path) -> None:
        super().fsync(path)
        self._settle(self._meet(path))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._look(target.parent)

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._look(path.parent)

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._look(path.parent)

    def rmdir(self, path: Path) -> None:
        super().rmdir(path)
        self._look(path.parent)

    def aftermaths(self, at: Path) -> Iterator[Path]:
        """Write out, in new folders, trees that may be found after the power cut."""
        dice = random.Random(self.at)
        choices: list[tuple[Pick[dict[str, int]], Pick[bytes]]]
        choices = [(names, data) for names in (_first, _last) for data in (_first, _last)]
        choices += [(dice.choice, dice.choice)] * 4
        for number, (names, data) in enumerate(choices):
            self._restore(self._root, at / str(number), names, data)
            yield at / str(number)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def _restore(
        self,
        inode: int,
        path: Path,
        names: Pick[dict[str, int]],
        data: Pick[bytes],
    ) -> None:
        if inode not in self._names:
            before, now = self._durable[inode], self._content(inode)
            path.write_bytes(now if now == before else data([before, now[: len(now) // 2], now]))
            return
        path.mkdir(parents=True)
        for name, inner in names([*self._names[inode], self._listing(inode)]).items():
            self._restore(inner, path / name, names, data)

    def _meet(self, path: Path) -> int:
        """Give the inode of a path; what is met for the first time is not durable."""
        descriptor = os.open(path, os.O_RDONLY)
        inode = os.fstat(descriptor).st_ino
        if inode in self._open:
            os.close(descriptor)
            return inode
        self._open[inode] = descriptor
        if path.is_dir():
            self._names[inode] = [{}]
        else:
            self._durable[inode] = b""
        return inode

    def _look(self, folder: Path) -> None:
        inode = self._meet(folder)
        self._names[inode].append(self._listing(inode))

    def _settle(self, inode: int) -> None:
        if inode in self._names:
            self._names[inode] = [self._listing(inode)]
        else:
            self._durable[inode] = self._content(inode)

    def _listing(self, inode: int) -> dict[str, int]:
        here = Path(f"/proc/self/fd/{self._open[inode]}")
        return {name: self._meet(here / name) for name in os.listdir(self._open[inode])}  # noqa: PTH208

    def _content(self, inode: int) -> bytes:
        descriptor = self._open[inode]
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _first(options: Sequence[T]) -> T:
    return options[0]


def _last(options: Sequence[T]) -> T:
    return options[-1]


def crash_everywhere(
    at: Path,
    prepare: Callable[[Path], None],
    act: Callable[[Path, Store], None],
    check: Callable[[Path], None],
) -> int:
    """Crash `act` before each of its operations in turn, `check` each aftermath; give the number of operations."""
    for point in range(10_000):
        root = at / f"{point}"
        root.mkdir(parents=True)
        prepare(root)
        disk = CrashingDisk(root, point)
        try:
            act(root, Store(disk))
            crashed = False
        except Crash:
            crashed = True
        for aftermath in disk.aftermaths(at / f"{point}-after"):
            try:
                check(aftermath)
            except BaseException as error:
                error.add_note(f"crashed before operation {point}, after {disk.steps}: {aftermath}")
                raise
        disk.close()
        if not crashed:
            return point
    raise AssertionError("it never ends")


def fail_everywhere(
    at: Path,
    number: int,
    prepare: Callable[[Path], None],
    act: Callable[[Path, Store], None],
    check: Callable[[Path, FailingDisk, StorageError], None],
    *,
    stays: bool = False,
) -> int:
    """Let each operation of `act` fail in turn, `check` what that leaves; give the number of operations."""
    for point in range(10_000):
        root = at / f"{point}"
        root.mkdir(parents=True)
        prepare(root)
        disk = FailingDisk(point, number, stays=stays)
        try:
            act(root, Store(disk))
        except StorageError as error:
            check(root, disk, error)
        else:
            if not disk.failed:
                return point
            raise AssertionError(f"the failure of operation {point} ({disk.steps[point]}) went unseen")
    raise AssertionError("it never ends")
