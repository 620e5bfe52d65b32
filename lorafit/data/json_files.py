"""Rows of json and jsonl files, with the line each stands on; of an array no more is held than an element."""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from lorafit.data import strict_json
from lorafit.data.faults import DamagedFile
from lorafit.data.lines import MAX_LINE_BYTES, Numbered, begin, numbered_lines
from lorafit.recipe.formats import RowFault
from lorafit.recipe.formats.fields import kind_of

CHUNK_BYTES = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")
_LAX = json.JSONDecoder()


def json_rows(stream: io.BufferedReader, *, by_line: bool) -> Iterator[Numbered]:
    """Give the rows of a JSON file: one array, or an object a line, told apart by content.

    `by_line` says that the name promises lines. DamagedFile when the file cannot be read on.
    """
    if begin(stream).startswith(b"<"):
        raise DamagedFile("is an HTML or XML page, not JSON", "E3-FILE-HTML", "a failed download? fetch it again")
    before = _skip_space(stream)
    if stream.peek(1)[:1] == b"[" and not by_line:
        yield from _Array(stream, b"", before + 1).rows()
        return
    first = stream.readline(MAX_LINE_BYTES + 1)
    opens, whole = first[:1], _complete(first)
    if opens == b"[" and not (whole and stream.peek(1)):
        yield from _Array(stream, first, before + 1).rows()
    elif opens == b"{" and not by_line and not whole:
        yield from _object_row(first + stream.read(MAX_LINE_BYTES), before + 1)
    else:
        yield from _line_rows(numbered_lines(stream, before, first))


def _skip_space(stream: io.BufferedReader) -> int:
    """Go to the first character that is no space; give how many lines end before it."""
    before = 0
    while held := stream.peek(1):
        space = len(held) - len(held.lstrip(b" \t\r\n"))
        before += held.count(b"\n", 0, space)
        stream.read(space)
        if space < len(held):
            break
    return before


def _complete(line: bytes) -> bool:
    try:
        strict_json.parse(line.decode())
    except (RowFault, UnicodeDecodeError):
        return False
    return True


def _line_rows(lines: Iterator[tuple[int, str | RowFault]]) -> Iterator[Numbered]:
    for number, line in lines:
        if isinstance(line, RowFault):
            yield number, line
        elif not line.isspace():
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


def _object_row(data: bytes, line: int) -> Iterator[Numbered]:
    """Read the one object that a file holds over many lines."""
    try:
        if len(data) > MAX_LINE_BYTES:
            raise RowFault(f"longer than {MAX_LINE_BYTES:,} bytes", "E3-ROW-LONG")
        yield line, as_row(strict_json.parse(data.decode()))
    except RowFault as fault:
        yield line, fault
    except UnicodeDecodeError as error:
        raise _foreign(line + data.count(b"\n", 0, error.start)) from None


class _Array:
    """An array on its way: a window of its text that begins where the next element does."""

    def __init__(self, stream: io.BufferedReader, first: bytes, line: int) -> None:
        self.stream, self.line = stream, line
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.ended, self.text, self.place = False, "", 0
        self.text = self._decoded(first or stream.read(CHUNK_BYTES))
        self.place = self.text.index("[") + 1

    def rows(self) -> Iterator[Numbered]:
        """Give the elements; DamagedFile where the array is broken."""
        if self._next() == "]":
            self._end()
            return
        while True:
            yield self.line, self._element()
            after = self._next()
            if after == "]":
                break
            if after != ",":
                found = self.text[self.place : self.place + 20]
                raise _broken(f"expected a comma or the end of the array, found {found!r}", self.line)
            self.place += 1
            self._next()
        self._end()

    def _element(self) -> dict[str, Any] | RowFault:
        """Read one element; where only its meaning is wrong, the next can still be read."""
        if self.place >= len(self.text):
            raise _broken("the array is cut off", self.line)
        if self.text.startswith("]", self.place):
            raise _broken("a comma stands before the end of the array", self.line)
        row, end = self._read_element()
        self.line += self.text.count("\n", self.place, end)
        self.place = end
        return row

    def _read_element(self) -> tuple[dict[str, Any] | RowFault, int]:
        """Read what stands here and find where it ends, taking in more text while it may only be cut."""
        while True:
            try:
                row, end = _strict_or_fault(self.text, self.place)
            except RowFault as fault:
                held = len(self.text) - self.place
                if fault.code != "E3-ROW-JSON" or held > MAX_LINE_BYTES or not self._more():
                    raise _broken(f"{fault.reason} ({fault.found})", self.line) from None
                continue
            if end < len(self.text) or not self._more():  # at the very end a number may go on
                return row, end

    def _next(self) -> str:
        """Pass over space and give the character that stands there; "" at the end of the file."""
        while True:
            found = _SPACE.match(self.text, self.place)
            end = found.end() if found else self.place
            self.line += self.text.count("\n", self.place, end)
            self.place = end
            if end < len(self.text):
                return self.text[end]
            if not self._more():
                return ""

    def _end(self) -> None:
        self.place += 1
        if self._next():
            raise _broken("the file goes on after the array", self.line)

    def _more(self) -> bool:
        """Read on, as much again as is held at least; say whether there was more."""
        if self.ended:
            return False
        self.text = self.text[self.place :]
        self.place = 0
        self.text += self._decoded(self.stream.read(max(CHUNK_BYTES, len(self.text))))
        return True

    def _decoded(self, data: bytes) -> str:
        self.ended = not data
        try:
            return self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            before = self.text.count("\n", self.place) + error.object.count(b"\n", 0, error.start)
            raise _foreign(self.line + before) from None


def _strict_or_fault(text: str, start: int) -> tuple[dict[str, Any] | RowFault, int]:
    """Read an element, or say what its fault is where it can be passed over; RowFault where it cannot."""
    try:
        value, end = strict_json.parse_at(text, start)
    except RowFault as fault:
        try:
            return fault, _LAX.raw_decode(text, start)[1]
        except RecursionError:
            raise fault from None
        except ValueError as error:
            raise RowFault(fault.reason, "E3-ROW-JSON", fault.found or str(error)) from None
    try:
        return as_row(value), end
    except RowFault as fault:
        return fault, end


def _broken(what: str, line: int) -> DamagedFile:
    return DamagedFile(f"line {line}: {what}; nothing after it was read", "E3-FILE-JSON")


def _foreign(line: int) -> DamagedFile:
    return DamagedFile(f"is not UTF-8 (line {line})", "E3-FILE-ENCODING", "save it as UTF-8")
