"""The lines of a text file, numbered, decoded and bounded."""

import io
from collections.abc import Iterator
from typing import Any

from lorafit.data.faults import DamagedFile
from lorafit.recipe.formats import RowFault

MAX_LINE_BYTES = 16 * 2**20
BOM = b"\xef\xbb\xbf"

Numbered = tuple[int, dict[str, Any] | RowFault]  # 1-based line; the row, or what is wrong with it


def begin(stream: io.BufferedReader) -> bytes:
    """Pass over a byte order mark and look at what follows; DamagedFile for UTF-16 or UTF-32."""
    head = stream.peek(4)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:4]:
        raise DamagedFile("is UTF-16 or UTF-32 text", "E3-FILE-ENCODING", "save it as UTF-8")
    if head.startswith(BOM):
        stream.read(len(BOM))
    return head.removeprefix(BOM).lstrip()


def numbered_lines(
    stream: io.BufferedReader, before: int = 0, first: bytes = b""
) -> Iterator[tuple[int, str | RowFault]]:
    """Give the lines with their numbers; `first` was read already, behind `before` others."""
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
