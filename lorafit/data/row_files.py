"""Rows on their way to disk: three flat files that grow row by row, and the arrays that are mapped from them."""

import struct
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from lorafit.data.token_rows import NO_LABEL, ROW_FIELDS, ROW_FORMAT, Part, TokenRows, row_hash
from lorafit.rundir.disk import storage_faults

TOKENS, TRAINED, TABLE = "tokens.bin", "trained.bin", "rows.bin"
BUFFER_BYTES = 2**20


class RowWriter:
    """Appends rows to files, so that memory does not grow with their number.

    The files lie in `folder`, or without one are temporary and gone with the process. Raises StorageError.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.gettempdir())
        self._files = [_temporary() if folder is None else _named(folder / name) for name in (TOKENS, TRAINED, TABLE)]
        self.files: dict[str, int] = {}
        self.labels: dict[str, int] = {}
        self.rows = self.tokens = self.targets = 0

    def add(
        self,
        tokens: NDArray[np.int32],
        trained: NDArray[np.bool_],
        file: str,
        line: int,
        *,
        unfinished: bool = False,
        label: str | None = None,
    ) -> None:
        """Append one row."""
        targets = int(np.count_nonzero(trained[1:])) if label is None else 1
        number = self.files.setdefault(file, len(self.files))
        content = row_hash(tokens, trained, label)
        kind = NO_LABEL if label is None else self.labels.setdefault(label, len(self.labels))
        place = (
            self.tokens,
            content,
            line,
            len(tokens),
            targets,
            int(tokens.max(initial=0)),
            number,
            0,
            kind,
            unfinished,
        )
        written: tuple[memoryview | bytes, ...] = (tokens.data, trained.data, struct.pack(ROW_FORMAT, *place))
        with storage_faults(self.folder):
            for stream, data in zip(self._files, written, strict=True):
                stream.write(data)
        self.rows, self.tokens, self.targets = self.rows + 1, self.tokens + len(tokens), self.targets + targets

    def build(self) -> TokenRows:
        """Give the rows that were written, mapped from the temporary files."""
        with self, storage_faults(self.folder):
            tokens, trained, table = map(_mapped_stream, self._files, (np.int32, np.bool_, ROW_FIELDS))
        return TokenRows((Part(tokens, trained, str(self.folder)),), table, tuple(self.files), tuple(self.labels))

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hand everything over to the operating system; what is mapped stays mapped."""
        with storage_faults(self.folder):
            for stream in self._files:
                stream.close()


def mapped(folder: Path, files: Sequence[str], labels: Sequence[str]) -> TokenRows:
    """Map the rows that a RowWriter left in a folder."""
    table = np.fromfile(folder / TABLE, ROW_FIELDS)  # small, and read as a whole
    tokens, trained = _mapped(folder / TOKENS, np.int32), _mapped(folder / TRAINED, np.bool_)
    return TokenRows((Part(tokens, trained, str(folder)),), table, tuple(files), tuple(labels))


def made(rows: Sequence[tuple[Any, Any]], file: str = "rows") -> TokenRows:
    """Make rows of given tokens and flags, one a line of a file that need not exist."""
    writer = RowWriter()
    for line, (tokens, trained) in enumerate(rows, 1):
        writer.add(np.ascontiguousarray(tokens, np.int32), np.ascontiguousarray(trained, np.bool_), file, line)
    return writer.build()


def _temporary() -> BinaryIO:
    with suppress(OSError):
        return cast("BinaryIO", tempfile.TemporaryFile(buffering=BUFFER_BYTES))
    return BytesIO()  # no folder to write to


def _named(path: Path) -> BinaryIO:
    with storage_faults(path):
        return path.open("xb", buffering=BUFFER_BYTES)


def _mapped(file: Path | BinaryIO, kind: Any) -> NDArray[Any]:
    size = file.stat().st_size if isinstance(file, Path) else file.seek(0, 2)
    if not size:  # an empty file cannot be mapped
        return np.empty(0, kind)
    return np.asarray(np.memmap(file, kind, "r"))


def _mapped_stream(stream: BinaryIO, kind: Any) -> NDArray[Any]:
    if isinstance(stream, BytesIO):
        return np.frombuffer(stream.getvalue(), kind)
    stream.flush()
    return _mapped(stream, kind)
