"""Rows of csv and txt files, with the line each stands on."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from lorafit.data.faults import DamagedFile, ReadLog
from lorafit.data.lines import MAX_LINE_BYTES, Numbered, begin, numbered_lines
from lorafit.recipe.formats import RowFault

SEPARATORS = ";\t|,"  # a column whose name holds one is taken for several


def text_rows(stream: io.BufferedReader, log: ReadLog) -> Iterator[Numbered]:
    """Give the lines of a text file that are not empty, each as the field `text`; count those that are."""
    begin(stream)
    empty = 0
    for number, line in numbered_lines(stream):
        if isinstance(line, RowFault):
            yield number, line
        elif line.isspace():
            empty += 1
        else:
            yield number, {"text": line.rstrip("\r\n")}
    if empty:
        log.note(f"{empty:,} empty lines were passed over: a line is a row")


def csv_rows(stream: io.BufferedReader, delimiter: str) -> Iterator[Numbered]:
    """Give the rows of a table whose first line names the columns; DamagedFile when it does not."""
    if begin(stream).lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DamagedFile("is an HTML or XML page, not CSV", "E3-FILE-HTML", "a failed download? fetch it again")
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(_csv_lines(stream), delimiter=delimiter, strict=True)
    header = _header(reader, delimiter)
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            yield number, RowFault(f"not valid CSV: {error}", "E3-ROW-CSV")
            continue
        if values is None:
            return
        if values:
            yield number, _csv_row(header, values)


def _csv_lines(stream: io.BufferedReader) -> Iterator[str]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DamagedFile(f"line {number} is longer than {MAX_LINE_BYTES:,} bytes", "E3-FILE-LONG")
        yield line.decode(errors="surrogateescape")


def _header(reader: Any, delimiter: str) -> list[str]:
    try:
        header: list[str] = next((values for values in reader if values), [])
    except csv.Error as error:
        raise DamagedFile(f"line 1 is not valid CSV: {error}", "E3-FILE-COLUMNS") from None
    if any(map(_foreign, header)):
        raise DamagedFile("is not UTF-8 (line 1)", "E3-FILE-ENCODING", "save it as UTF-8")
    if len(set(header)) < len(header):
        raise DamagedFile(f"names a column twice: {', '.join(header)}", "E3-FILE-COLUMNS")
    if len(header) == 1 and (other := next((mark for mark in SEPARATORS if mark in header[0]), "")):
        what = f"its columns are set apart by {other!r}, not by {delimiter!r}: {header[0]}"
        raise DamagedFile(what, "E3-FILE-COLUMNS", f"save it with {delimiter!r}, or as JSON lines")
    return header


def _csv_row(header: list[str], values: list[str]) -> dict[str, Any] | RowFault:
    if len(values) != len(header):
        found = f"{len(values)} of {len(header)}"
        return RowFault("has another number of columns than the header", "E3-ROW-COLUMNS", found)
    if any(map(_foreign, values)):
        return RowFault("not UTF-8", "E3-ROW-UTF8")
    return dict(zip(header, values, strict=True))


def _foreign(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)
