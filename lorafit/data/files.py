"""Files of rows: which ones a path means, their bytes unpacked, their hashes."""

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from lorafit.assets import folder as builtin_folder
from lorafit.data.arrow import pyarrow
from lorafit.data.faults import DamagedFile
from lorafit.errors import DataError
from lorafit.recipe.formats.fields import quoted

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".arrow")
PACKED = (".gz", ".zst")
SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "eval")
UNPACKED_RATIO = 200  # text shrinks to a tenth or so; a bomb to a thousandth
UNPACKED_FREE = 64 * 2**20  # bytes that any file may unpack to
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def find(path: str, split: str, default_split: str) -> list[Path] | None:
    """Give the files that a path means, in order; None when it can only be a hub data set.

    Raises DataError when nothing is there, or not that split.
    """
    builtin = builtin_folder(path)
    place = builtin or Path(path).expanduser()
    if place.is_dir():
        return _in_folder(place, path, split, default_split)
    if place.exists():
        return _one_file(place, path, split, default_split)
    matched = sorted(Path().glob(path)) if re.search(r"[*?\[]", path) and not place.is_absolute() else []
    if matched:
        return [file for file in matched if file.is_file()]
    if builtin is None and _HUB_ID.fullmatch(path) and not _suffix(place):
        return None
    raise DataError("no such file or folder", where=path, fix="paths start from here", code="E3-NO-FILE")


def _suffix(file: Path) -> str:
    """Give what a file's name says it holds, packed or not; "" when it says nothing known."""
    name = file.with_suffix("") if file.suffix.lower() in PACKED else file
    return name.suffix.lower() if name.suffix.lower() in SUFFIXES else ""


def kind(file: Path) -> str:
    """Give the kind of a file by its name; DamagedFile when the name says nothing."""
    suffix = _suffix(file)
    if not suffix:
        raise DamagedFile(f"the name ends in {file.suffix!r}, which is none of {', '.join(SUFFIXES)}", "E3-FILE-KIND")
    return suffix


def _one_file(file: Path, path: str, split: str, default_split: str) -> list[Path]:
    if not file.is_file():
        raise DataError("is neither a file nor a folder", where=path, code="E3-NO-FILE")
    if split != default_split:
        raise DataError(
            f"a single file has no split {split!r}",
            where=path,
            fix="leave split out, or give a folder with one file per split",
            code="E3-SPLIT",
        )
    return [file]


def _in_folder(folder: Path, path: str, split: str, default_split: str) -> list[Path]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and _suffix(file)]
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise DataError(f"holds no file of rows ({', '.join(SUFFIXES)})", where=path, code="E3-NO-FILE")
    named = [file for file in files if _split_of(file) == split]
    if named:
        return named
    if split == default_split and not any(_split_of(file) in SPLITS for file in files):
        return files
    splits = sorted({_split_of(file) for file in files})
    raise DataError(f"has no split {split!r}", where=path, fix=f"the files are named {quoted(splits)}", code="E3-SPLIT")


def _split_of(file: Path) -> str:
    """Give the split that a name says: `train.jsonl`, `train-00000-of-00002.parquet`."""
    return re.split(r"[.-]", file.name, maxsplit=1)[0]


def sha256(file: Path) -> str:
    """Hash the bytes of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def opened(file: Path) -> Iterator[io.BufferedReader]:
    """Open a file, unpacking gzip and zstd by their first bytes; DamagedFile for what holds no text."""
    with file.open("rb") as raw:
        head = raw.read(4)
        raw.seek(0)
        if head[:2] == b"\x1f\x8b":
            yield _unpacked(cast("BinaryIO", gzip.GzipFile(fileobj=raw)), file)
        elif head == b"\x28\xb5\x2f\xfd":
            yield _unpacked(_zstd(raw), file)
        elif head[:2] == b"PK":
            raise DamagedFile("is a zip archive", "E3-FILE-KIND", "unpack it")
        else:
            yield raw


def _zstd(raw: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", pyarrow().CompressedInputStream(raw, "zstd"))


def _unpacked(stream: BinaryIO, file: Path) -> io.BufferedReader:
    allowed = max(UNPACKED_FREE, UNPACKED_RATIO * file.stat().st_size)
    return io.BufferedReader(_Capped(stream, allowed), 2**20)


class _Capped(io.RawIOBase):
    """An unpacking stream that stops before a bomb fills the memory, and calls damage by its name."""

    def __init__(self, stream: BinaryIO, allowed_bytes: int) -> None:
        self.stream, self.allowed_bytes, self.read_bytes = stream, allowed_bytes, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self.stream.read(len(buffer))
        except (EOFError, OSError, zlib.error) as error:
            raise DamagedFile(f"cannot be unpacked: {error}", "E3-FILE-DAMAGED", "fetch it again") from None
        self.read_bytes += len(data)
        if self.read_bytes > self.allowed_bytes:
            raise DamagedFile(
                f"unpacks to more than {self.allowed_bytes:,} bytes, {UNPACKED_RATIO} times its size",
                "E3-FILE-BOMB",
                "unpack it yourself if that is right",
            )
        buffer[: len(data)] = data
        return len(data)
