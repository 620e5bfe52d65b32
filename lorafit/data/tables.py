"""Rows of parquet and arrow files, through pyarrow, a batch at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorafit.data.arrow import pyarrow
from lorafit.data.faults import DamagedFile

BATCH_ROWS = 1024


def parquet_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give the rows of a parquet file, numbered from 1."""
    arrow = pyarrow()
    try:
        yield from _numbered(arrow.parquet.ParquetFile(file).iter_batches(BATCH_ROWS))
    except arrow.ArrowException as error:
        raise DamagedFile(f"is no parquet file: {error}", "E3-FILE-DAMAGED") from None


def arrow_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give the rows of an arrow file, streamed or with an index, numbered from 1."""
    arrow = pyarrow()
    with arrow.memory_map(str(file)) as mapped:
        try:
            try:
                reader = arrow.ipc.open_file(mapped)
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
            except arrow.ArrowInvalid:
                mapped.seek(0)
                batches = iter(arrow.ipc.open_stream(mapped))
            yield from _numbered(batches)
        except arrow.ArrowException as error:
            raise DamagedFile(f"is no arrow file: {error}", "E3-FILE-DAMAGED") from None


def _numbered(batches: Iterator[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield number, row
