"""The only code that writes into a run: each file and each folder is there as a whole, or not at all.

A name is given only after the bytes behind it are on the disk, and nothing is deleted before what takes its
place has its name. So a crash, a full disk or a power cut at any moment leaves the old state or the new one.
"""

import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from lorafit.errors import StorageError
from lorafit.rundir.commit import COMMIT, Commit, encode, folder_files, read_commit, seal, verify_folder
from lorafit.rundir.disk import Disk, check_room, storage_faults

__all__ = ["Commit", "Store", "is_leftover", "read_commit", "verify_folder"]

_LEFTOVER = re.compile(r"\.(tmp|trash)-[0-9a-f]{32}")


def is_leftover(path: Path) -> bool:
    """Tell whether the name is one that only this module gives, to what is being written or removed."""
    return _LEFTOVER.fullmatch(path.name) is not None


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{kind}-{uuid4().hex}")


@dataclass(frozen=True)
class Store:
    """Writes durably, or raises a StorageError and leaves what was there before."""

    disk: Disk = field(default_factory=Disk)

    def write_bytes(self, path: Path, data: bytes) -> None:
        """Write a file, or replace it, in one go; its folder is made if need be."""
        self.make_folder(path.parent)
        temporary = _beside(path, "tmp")
        with storage_faults(path, len(data)):
            try:
                self.disk.write(temporary, data)
                self.disk.fsync(temporary)
                self.disk.rename(temporary, path)
                self._sync_names(path.parent)
            except BaseException:
                self._discard(temporary)
                raise

    def write_json(self, path: Path, value: object) -> None:
        """Write a value as JSON, likewise."""
        self.write_bytes(path, encode(value))

    def append_line(self, path: Path, value: object) -> None:
        """Add one line of JSON: safe from a kill at once, from a power cut after the next `sync`."""
        line = json.dumps(value, allow_nan=False).encode() + b"\n"
        with storage_faults(path, len(line)):
            self.disk.append(path, line)

    def sync(self, path: Path) -> None:
        """Wait until the file, if it is there, would survive a power cut."""
        if path.exists():
            with storage_faults(path):
                self.disk.fsync(path)
                self._sync_names(path.parent)

    def make_folder(self, path: Path) -> None:
        """Make the folder, and those above it, so that they survive a power cut."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        with storage_faults(path):
            self.disk.mkdir(path)
            self._sync_names(path.parent)

    def commit_folder(
        self,
        target: Path,
        fill: Callable[[Path], None],
        facts: Mapping[str, object],
        *,
        replace: bool = False,
        expected_bytes: int = 0,
    ) -> Commit:
        """Make a folder whose files `fill` writes into the empty one that it is given, by whatever library.

        It gets its name only when every byte and its COMMIT.json (sha256 of each file, and `facts`) are on
        the disk. What has the name already is a reason to refuse, or with `replace` is moved aside and then
        deleted. The room for `expected_bytes` is checked first. Raises StorageError; what `fill` raises and
        is not the disk's fault passes through.
        """
        if os.path.lexists(target) and not replace:
            raise StorageError(
                "is already there",
                where=str(target),
                fix="move it away, or choose another name",
                code="E7-EXISTS",
            )
        self.make_folder(target.parent)
        check_room(target.parent, expected_bytes)
        building = _beside(target, "tmp")
        with storage_faults(target, expected_bytes):
            try:
                self.disk.mkdir(building)
                fill(building)
                self._seal(building, target.name, facts)
                self._publish(building, target)
            except BaseException:
                self._discard(building)
                raise
        return read_commit(target)

    def _seal(self, folder: Path, name: str, facts: Mapping[str, object]) -> None:
        assert not (folder / COMMIT).exists(), "fill wrote a COMMIT.json of its own"
        for file in folder_files(folder):
            assert not (folder / file).is_symlink(), f"fill made a link: {file}"
            (folder / file).chmod(0o666 & ~_umask())  # safetensors' files are for their owner alone
            self.disk.fsync(folder / file)
        self.disk.write(folder / COMMIT, seal(folder, name, facts))
        self.disk.fsync(folder / COMMIT)
        for inner in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
            self._sync_names(inner)

    def _publish(self, built: Path, target: Path) -> None:
        old = _beside(target, "trash") if os.path.lexists(target) else None
        if old:
            self.disk.rename(target, old)
        try:
            self.disk.rename(built, target)
        except OSError:
            if old:
                self.disk.rename(old, target)
            raise
        self._sync_names(target.parent)
        if old:
            self._delete(old)

    def remove(self, path: Path) -> None:
        """Delete a file or a folder; it loses its name first, so that no half of it ever has that name."""
        trash = _beside(path, "trash")
        with storage_faults(path):
            self.disk.rename(path, trash)
            self._sync_names(path.parent)  # or a power cut could give the name back to an emptied folder
            self._delete(trash)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or a folder another name in the same file system; the name must be free."""
        assert not os.path.lexists(target), f"{target} is taken"
        with storage_faults(target):
            self.disk.rename(source, target)
            self._sync_names(target.parent)

    def sweep(self, folder: Path) -> list[str]:
        """Clear what a killed process left half written or half deleted; the caller has locked the folder.

        A folder that was moved aside for one that never came gets its name back. Returns a line for each.
        """
        leftovers = sorted(path for path in folder.iterdir() if is_leftover(path)) if folder.is_dir() else []
        if leftovers:
            with storage_faults(folder):
                self._sync_names(folder)
        return [self._clear(path) for path in leftovers]

    def _clear(self, leftover: Path) -> str:
        home = _lost_home(leftover)
        with storage_faults(leftover):
            if home:
                self.disk.rename(leftover, home)
                self._sync_names(home.parent)
                return f"{home} was put back: it was being replaced or removed when the run was cut off"
            self._delete(leftover)
            return f"{leftover} was removed: it was left half written when the run was cut off"

    def _delete(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            for inner in path.iterdir():
                self._delete(inner)
            self.disk.rmdir(path)
        else:
            self.disk.unlink(path)

    def _discard(self, temporary: Path) -> None:
        """Clean up behind a failure that is on its way to the user; what stays is swept next time."""
        if os.path.lexists(temporary):
            with suppress(OSError):
                self._delete(temporary)

    def _sync_names(self, folder: Path) -> None:
        try:
            self.disk.fsync(folder)
        except OSError as error:  # some network file systems cannot, and make names durable at once
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


def _umask() -> int:
    mask = os.umask(0)  # there is no way to ask without setting it
    os.umask(mask)
    return mask


def _lost_home(leftover: Path) -> Path | None:
    """Give the free name that a whole committed folder was moved away from, if this is one."""
    if not leftover.name.startswith(".trash-"):
        return None
    try:
        home = leftover.with_name(verify_folder(leftover).name)
    except StorageError:
        return None
    return None if os.path.lexists(home) else home
