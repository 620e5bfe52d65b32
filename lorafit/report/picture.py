"""The file that a picture goes to."""

from pathlib import Path

from lorafit.errors import StorageError


def check_picture(path: Path) -> None:
    """Refuse a path that no file can have, before the work that the picture shows. Raises StorageError."""
    if path.is_dir() or not path.parent.is_dir():
        raise _unwritten(path, "no such folder, or a folder itself")


def write_picture(path: Path, text: str) -> None:
    """Write it. Raises StorageError."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritten(path, error.strerror or "") from None


def _unwritten(path: Path, reason: str) -> StorageError:
    return StorageError(
        f"cannot write: {reason}",
        where=str(path),
        fix="give --picture a file in a folder that can be written to",
        code="E7-OUTPUT",
    )
