"""Bytes as they were before gzip or zstd, known by their first bytes, and no more of them than is sane."""

import gzip
import io
import zlib
from typing import Any, BinaryIO, cast

from lorafit.data.arrow import pyarrow
from lorafit.data.faults import DamagedFile

UNPACKED_RATIO = 200  # text shrinks to a tenth or so; a bomb to a thousandth
UNPACKED_FREE = 64 * 2**20  # bytes that any file may unpack to


def unpacked(raw: io.BufferedReader, size_bytes: int) -> io.BufferedReader:
    """Give the bytes of a file, unpacked if need be; DamagedFile for what holds no text."""
    head = raw.peek(4)[:4]
    if head[:2] == b"\x1f\x8b":
        return _capped(gzip.GzipFile(fileobj=raw), size_bytes)
    if head == b"\x28\xb5\x2f\xfd":
        return _capped(pyarrow().CompressedInputStream(raw, "zstd"), size_bytes)
    if head[:2] == b"PK":
        raise DamagedFile("is a zip archive", "E3-FILE-KIND", "unpack it")
    return raw


def _capped(stream: Any, packed_bytes: int) -> io.BufferedReader:
    allowed = max(UNPACKED_FREE, UNPACKED_RATIO * packed_bytes)
    return io.BufferedReader(_Capped(cast("BinaryIO", stream), allowed), 2**20)


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
