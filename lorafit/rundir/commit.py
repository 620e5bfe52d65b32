"""COMMIT.json: the list of what a folder holds, which makes it exist, and the check against it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorafit.errors import Fault, StorageError

COMMIT = "COMMIT.json"
FORMAT = 1
_LARGEST_BYTES = 16 * 2**20  # of a COMMIT.json that is read at all


@dataclass(frozen=True)
class FileFact:
    """One file of a committed folder; the name is relative, with forward slashes."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Commit:
    """A committed folder: what it is called, what its writer says of it, and its files in order of name."""

    path: Path
    name: str
    facts: Mapping[str, Any]
    files: tuple[FileFact, ...]
    sha256: str  # of everything else in COMMIT.json

    @property
    def size_bytes(self) -> int:
        """Bytes of all files but COMMIT.json."""
        return sum(file.bytes for file in self.files)


def encode(value: object) -> bytes:
    """Write JSON for a person: indented, keys in the order given, never NaN."""
    return json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"


def hash_file(path: Path) -> FileFact:
    """Hash one file without holding it in memory."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileFact(path.name, file.tell(), digest)


def folder_files(folder: Path) -> list[str]:
    """List all below the folder that is not a folder, COMMIT.json excepted, by relative name in order."""
    below = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for path in below if (name := path.relative_to(folder).as_posix()) != COMMIT)


def seal(folder: Path, name: str, facts: Mapping[str, object]) -> bytes:
    """Hash every file of the folder and give the content of its COMMIT.json.

    The document carries its own hash and has one spelling only: no flipped bit of it goes unseen either.
    """
    hashed = [asdict(hash_file(folder / file)) | {"name": file} for file in folder_files(folder)]
    document = {"format": FORMAT, "name": name, "facts": dict(facts), "files": hashed}
    return encode(document | {"sha256": hashlib.sha256(encode(document)).hexdigest()})


def read_commit(folder: Path) -> Commit:
    """Read and check COMMIT.json alone; a StorageError says why it is no commit."""
    path = folder / COMMIT
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
        return _parsed(folder, data)
    except FileNotFoundError:
        raise _damaged(folder, [f"{COMMIT} is missing"]) from None
    except OSError as error:
        raise _damaged(folder, [f"{COMMIT} cannot be read: {error.strerror}"]) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(folder, [f"{COMMIT} is damaged: {error}"]) from error


def _parsed(folder: Path, data: bytes) -> Commit:
    if len(data) > _LARGEST_BYTES:
        raise ValueError("it is too long")
    document = json.loads(data)
    if document["format"] != FORMAT:
        raise ValueError(f"its format, {document['format']!r}, belongs to another version of lorafit")
    body = {key: value for key, value in document.items() if key != "sha256"}
    digest = hashlib.sha256(encode(body)).hexdigest()
    if data != encode(body | {"sha256": digest}):
        raise ValueError("it is not as it was written")
    if "/" in body["name"] or body["name"] in ("", ".", ".."):
        raise ValueError("its name is a path")
    files = tuple(FileFact(**file) for file in body["files"])
    return Commit(folder, body["name"], dict(body["facts"]), files, digest)


def verify_folder(folder: Path) -> Commit:
    """Hash every file and compare it with COMMIT.json; a StorageError names each file that differs."""
    commit = read_commit(folder)
    if differences := list(_differences(commit, contents=True)):
        raise _damaged(folder, differences)
    return commit


def check_sizes(folder: Path) -> Commit:
    """Do what `verify_folder` does in a blink, without reading the files: flipped bits go unseen."""
    commit = read_commit(folder)
    if differences := list(_differences(commit, contents=False)):
        raise _damaged(folder, differences)
    return commit


def _differences(commit: Commit, *, contents: bool) -> Iterator[str]:
    listed = {file.name: file for file in commit.files}
    found = folder_files(commit.path)
    for name in sorted(listed.keys() | set(found)):
        if name not in listed:
            yield f"{name} was not there when it was committed"
        elif name not in found:
            yield f"{name} is missing"
        elif difference := _difference(commit.path / name, listed[name], contents=contents):
            yield f"{name} {difference}"


def _difference(path: Path, expected: FileFact, *, contents: bool) -> str:
    if path.is_symlink() or not path.is_file():
        return "is not a plain file"
    try:
        if (found_bytes := path.stat().st_size) != expected.bytes:
            return f"has {found_bytes} bytes, was committed with {expected.bytes}"
        changed = contents and hash_file(path).sha256 != expected.sha256
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "has other content than was committed" if changed else ""


def _damaged(folder: Path, differences: list[str]) -> StorageError:
    fix = "restore it from a copy, or let lorafit write it again"
    return StorageError([Fault(text, where=str(folder), fix=fix, code="E7-DAMAGED") for text in differences])
