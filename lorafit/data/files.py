"""Files of rows on this machine: which ones a path means, what kind they are, their hashes."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from lorafit.assets import folder as builtin_folder
from lorafit.data.faults import DamagedFile
from lorafit.errors import DataError
from lorafit.recipe.formats.fields import quoted

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".arrow")
PACKED = (".gz", ".zst")
SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "eval")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PATTERN = re.compile(r"[*?\[]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

File = TypeVar("File", Path, PurePosixPath)


def find(path: str, split: str, default_split: str) -> list[Path] | None:
    """Give the files that a path means, in order; None when it can only be a URL or a hub data set.

    Raises DataError when nothing is there, or not that split.
    """
    if is_url(path) and not path.startswith("file://"):
        return None
    builtin = builtin_folder(path)
    place = builtin or Path(_without_scheme(path)).expanduser()
    if place.is_dir():
        return of_folder([file for file in sorted(place.rglob("*")) if file.is_file()], path, split, default_split)
    if place.exists():
        return _one_file(place, path, split, default_split)
    if is_pattern(path):
        return of_pattern(_matching(place), path, split, default_split)
    if builtin is None and _HUB_ID.fullmatch(path) and not suffix(place):
        return None
    raise DataError("no such file or folder", where=path, fix="paths start from here", code="E3-NO-FILE")


def is_url(path: str) -> bool:
    """Say whether a path names something by protocol, as `s3://` does."""
    return _URL.match(path) is not None


def is_pattern(path: str) -> bool:
    """Say whether a path is a pattern, as `data/*.jsonl`."""
    return _PATTERN.search(path) is not None


def suffix(file: PurePath) -> str:
    """Give what a file's name says it holds, packed or not; "" when it says nothing known."""
    name = file.with_suffix("") if file.suffix.lower() in PACKED else file
    return name.suffix.lower() if name.suffix.lower() in SUFFIXES else ""


def kind(file: PurePath) -> str:
    """Give the kind of a file by its name; DamagedFile when the name says nothing."""
    found = suffix(file)
    if not found:
        raise DamagedFile(f"the name ends in {file.suffix!r}, which is none of {', '.join(SUFFIXES)}", "E3-FILE-KIND")
    return found


def of_folder(files: Sequence[File], path: str, split: str, default_split: str) -> list[File]:
    """Choose the files of a split among those of a folder: by name, or all where no name tells of a split."""
    files = [file for file in files if suffix(file) and not file.name.startswith(".")]
    if not files:
        raise DataError(
            f"holds no file of rows ({', '.join(SUFFIXES)})",
            where=path,
            fix="give a folder or a file with rows of one of these kinds",
            code="E3-NO-FILE",
        )
    named = [file for file in files if _split_of(file) == split]
    if named:
        return named
    if split == default_split and not any(_split_of(file) in SPLITS for file in files):
        return list(files)
    splits = sorted({_split_of(file) for file in files})
    raise DataError(f"has no split {split!r}", where=path, fix=f"the files are named {quoted(splits)}", code="E3-SPLIT")


def of_pattern(files: Sequence[File], path: str, split: str, default_split: str) -> list[File]:
    """Choose the files of a split among those that a pattern matches: all, unless a split is asked for."""
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise DataError("no file matches", where=path, fix="patterns start from here", code="E3-NO-FILE")
    return list(files) if split == default_split else of_folder(files, path, split, default_split)


def of_file(path: str, split: str, default_split: str) -> None:
    """Refuse a split of a single file."""
    if split != default_split:
        raise DataError(
            f"a single file has no split {split!r}",
            where=path,
            fix="leave split out, or give a folder with one file per split",
            code="E3-SPLIT",
        )


def sha256(file: Path) -> str:
    """Hash the bytes of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _without_scheme(path: str) -> str:
    return unquote(urlsplit(path).path) if path.startswith("file://") else path


def _matching(pattern: Path) -> list[Path]:
    root = Path(pattern.anchor)
    try:
        found = sorted(root.glob(str(pattern.relative_to(root))))
    except ValueError as error:  # such as a**b
        raise DataError(
            f"is no pattern: {error}", where=str(pattern), fix="write it like data/*.jsonl", code="E3-NO-FILE"
        ) from None
    return [file for file in found if file.is_file()]


def _one_file(file: Path, path: str, split: str, default_split: str) -> list[Path]:
    if not file.is_file():
        raise DataError(
            "is neither a file nor a folder",
            where=path,
            fix="give a file, a folder or a pattern of rows",
            code="E3-NO-FILE",
        )
    of_file(path, split, default_split)
    return [file]


def _split_of(file: PurePath) -> str:
    """Give the split that a name says: `train.jsonl`, `train-00000-of-00002.parquet`."""
    return re.split(r"[.-]", file.name, maxsplit=1)[0]
