"""Rows of parquet and arrow files, through pyarrow, a batch at a time."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorafit.data.arrow import pyarrow
from lorafit.data.faults import DamagedFile
from lorafit.data.lines import Numbered
from lorafit.recipe.formats import RowFault

BATCH_ROWS = 1024


def parquet_rows(file: Path | io.BufferedReader) -> Iterator[Numbered]:
    """Give the rows of a parquet file, numbered from 1."""
    arrow = pyarrow()
    try:
        yield from _numbered(arrow.parquet.ParquetFile(file).iter_batches(BATCH_ROWS))
    except (arrow.ArrowException, OSError) as error:
        raise DamagedFile(f"is no parquet file: {error}", "E3-FILE-DAMAGED") from None


def arrow_rows(file: Path | io.BufferedReader) -> Iterator[Numbered]:
    """Give the rows of an arrow file, streamed or with an index, numbered from 1."""
    arrow = pyarrow()
    with arrow.memory_map(str(file)) if isinstance(file, Path) else arrow.PythonFile(file) as source:
        try:
            try:
                reader = arrow.ipc.open_file(source)
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
            except arrow.ArrowInvalid:
                source.seek(0)
                batches = iter(arrow.ipc.open_stream(source))
            yield from _numbered(_as_large_as_at_first(batches, file))
        except (arrow.ArrowException, OSError) as error:
            raise DamagedFile(f"is no arrow file: {error}", "E3-FILE-DAMAGED") from None


def _as_large_as_at_first(batches: Iterator[Any], file: Path | io.BufferedReader) -> Iterator[Any]:
    """Cut batches to size, and stop before reading where a mapped file no longer is: the system would kill us."""
    size = file.stat().st_size if isinstance(file, Path) else 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            if isinstance(file, Path) and file.stat().st_size < size:
                raise DamagedFile("shrank while it was read", "E3-FILE-CHANGED", "start again when it is written")
            yield batch.slice(start, BATCH_ROWS)


def _numbered(batches: Iterator[Any]) -> Iterator[Numbered]:
    number = 0
    for batch in batches:
        for row in _rows(batch):
            number += 1
            yield number, row


def _rows(batch: Any) -> list[dict[str, Any] | RowFault]:
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError):  # a text that is no UTF-8, a date that Python has not
        return [_row(batch.slice(number, 1)) for number in range(batch.num_rows)]


def _row(batch: Any) -> dict[str, Any] | RowFault:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
    except UnicodeDecodeError:
        return RowFault("not UTF-8", "E3-ROW-UTF8")
    except (ValueError, OverflowError) as error:
        return RowFault("holds a value that cannot be read", "E3-ROW-TYPE", str(error)[:60])
    return row
