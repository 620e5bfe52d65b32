"""Rows of json, jsonl, csv and txt files, with the line each stands on."""

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from lorafit.data import strict_json
from lorafit.data.faults import DamagedFile
from lorafit.recipe.formats import RowFault
from lorafit.recipe.formats.fields import kind_of

MAX_LINE_BYTES = 16 * 2**20
BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\n\r]*")

Numbered = tuple[int, dict[str, Any] | RowFault]  # 1-based line; the row, or what is wrong with it


def json_rows(stream: io.BufferedReader, *, by_line: bool) -> Iterator[Numbered]:
    """Give the rows of a JSON file: one array, or an object a line, told apart by content.

    `by_line` says that the name promises lines. DamagedFile when the file cannot be read on.
    """
    if _begin(stream).startswith(b"<"):
        raise DamagedFile("is an HTML or XML page, not JSON", "E3-FILE-HTML", "a failed download? fetch it again")
    before, first = _first_line(stream)
    opens, whole = first.lstrip()[:1], _complete(first)
    if opens == b"[" and not (by_line and whole and stream.peek(1)):
        yield from _array_rows(first + stream.read(), before + 1)
    elif opens == b"{" and not by_line and not whole:
        yield from _object_row(first + stream.read(), before + 1)
    else:
        yield from _line_rows(_lines(stream, before, first))


def _first_line(stream: io.BufferedReader) -> tuple[int, bytes]:
    """Give the first line that is not empty, and how many empty ones stand before it."""
    for before in itertools.count():
        line = stream.readline(MAX_LINE_BYTES + 1)
        if not line or line.strip():
            return before, line
    raise AssertionError("counting does not end")


def text_rows(stream: io.BufferedReader) -> Iterator[Numbered]:
    """Give the lines of a text file that are not empty, each as the field `text`."""
    _begin(stream)
    for number, line in _lines(stream):
        if isinstance(line, RowFault):
            yield number, line
        elif line.strip():
            yield number, {"text": line.rstrip("\r\n")}


def csv_rows(stream: io.BufferedReader, delimiter: str) -> Iterator[Numbered]:
    """Give the rows of a table whose first line names the columns."""
    _begin(stream)
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = (line.decode(errors="surrogateescape") for line in stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = next(reader, [])
    if len(set(header)) < len(header):
        raise DamagedFile(f"names a column twice: {', '.join(header)}", "E3-FILE-COLUMNS")
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


def _csv_row(header: list[str], values: list[str]) -> dict[str, Any] | RowFault:
    if len(values) != len(header):
        found = f"{len(values)} of {len(header)}"
        return RowFault("has another number of columns than the header", "E3-ROW-COLUMNS", found)
    if any("\udc80" <= character <= "\udcff" for value in values for character in value):
        return RowFault("not UTF-8", "E3-ROW-UTF8")
    return dict(zip(header, values, strict=True))


def _begin(stream: io.BufferedReader) -> bytes:
    """Pass over a byte order mark and look at what follows; DamagedFile for UTF-16 or UTF-32."""
    head = stream.peek(4)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:4]:
        raise DamagedFile("is UTF-16 or UTF-32 text", "E3-FILE-ENCODING", "save it as UTF-8")
    if head.startswith(BOM):
        stream.read(len(BOM))
    return head.removeprefix(BOM).lstrip()


def _complete(line: bytes) -> bool:
    try:
        strict_json.parse(line.decode())
    except (RowFault, UnicodeDecodeError):
        return False
    return True


def _lines(stream: io.BufferedReader, before: int = 0, first: bytes = b"") -> Iterator[tuple[int, str | RowFault]]:
    number, line = before, first or stream.readline(MAX_LINE_BYTES + 1)
    while line:
        number += 1
        yield number, _line(stream, line)
        line = stream.readline(MAX_LINE_BYTES + 1)


def _line(stream: io.BufferedReader, line: bytes) -> str | RowFault:
    if len(line) > MAX_LINE_BYTES:
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)
        return RowFault(f"longer than {MAX_LINE_BYTES:,} bytes", "E3-ROW-LONG")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return RowFault("not UTF-8", "E3-ROW-UTF8", f"byte 0x{line[error.start]:02x} at {error.start}")


def _line_rows(lines: Iterator[tuple[int, str | RowFault]]) -> Iterator[Numbered]:
    for number, line in lines:
        if isinstance(line, RowFault):
            yield number, line
        elif line.strip():
            yield number, _row(line)


def _row(line: str) -> dict[str, Any] | RowFault:
    try:
        return as_row(strict_json.parse(line))
    except RowFault as fault:
        if fault.code == "E3-ROW-JSON" and not line.endswith("\n"):
            return RowFault("the last line is cut off", "E3-ROW-CUT", fault.found)
        return fault


def as_row(value: Any) -> dict[str, Any]:
    """Check that a JSON value is an object with at least one field."""
    if not isinstance(value, dict):
        raise RowFault(f"the row is {kind_of(value)}, expected an object", "E3-ROW-TYPE")
    if not value:
        raise RowFault("the row has no fields", "E3-ROW-EMPTY")
    return value


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DamagedFile(f"is not UTF-8 (line {line})", "E3-FILE-ENCODING", "save it as UTF-8") from None


def _object_row(data: bytes, line: int) -> Iterator[Numbered]:
    try:
        yield line, as_row(strict_json.parse(_decoded(data)))
    except RowFault as fault:
        yield line, fault


def _array_rows(data: bytes, line: int) -> Iterator[Numbered]:
    text = _decoded(data)
    place = text.index("[") + 1
    start, line = _skip_space(text, place, line)
    if text.startswith("]", start):
        return
    while True:
        value, end = _element(text, start, line)
        yield line, value
        after, line = _skip_space(text, end, line + text.count("\n", start, end))
        if text.startswith("]", after):
            break
        if not text.startswith(",", after):
            raise _broken(f"expected a comma or the end of the array, found {text[after : after + 20]!r}", line)
        start, line = _skip_space(text, after + 1, line)
    if text[after + 1 :].strip():
        raise _broken("the file goes on after the array", line)


def _element(text: str, start: int, line: int) -> tuple[dict[str, Any] | RowFault, int]:
    """Read one element of an array; where only its meaning is wrong, the next can still be read."""
    if not text[start : start + 1]:
        raise _broken("the array is cut off", line)
    if text.startswith("]", start):
        raise _broken("a comma stands before the end of the array", line)
    try:
        value, end = strict_json.parse_at(text, start)
    except RowFault as fault:
        try:
            _, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            raise _broken(f"{fault.reason} ({fault.found})", line) from None
        return fault, end
    try:
        return as_row(value), end
    except RowFault as fault:
        return fault, end


def _broken(what: str, line: int) -> DamagedFile:
    return DamagedFile(f"line {line}: {what}; nothing after it was read", "E3-FILE-JSON")


def _skip_space(text: str, place: int, line: int) -> tuple[int, int]:
    found = _SPACE.match(text, place)
    end = found.end() if found else place
    return end, line + text.count("\n", place, end)
