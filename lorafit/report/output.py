"""Standard output: results for programs, and nothing else."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lorafit.errors import StorageError


def emit(result: dict[str, Any]) -> None:
    """Print the result for a program."""
    text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    write_out(text if _writable(text) == text else json.dumps(result, allow_nan=False))


def write_out(text: str) -> None:
    """Write to standard output, what its encoding lacks spelled out."""
    with writing_out():
        print(_writable(text), flush=True)


def _writable(text: str) -> str:
    encoding = "utf-8" if sys.stdout is None else sys.stdout.encoding  # None: it was closed before the command began
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def writing_out() -> Iterator[None]:
    """Guard standard output. StorageError when it is full; 128 + SIGPIPE when its reader has gone, as usual."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try once more at its end
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        raise StorageError(
            f"cannot write: {error.strerror}",
            where="standard output",
            fix="look where the output goes: the disk may be full",
            code="E7-OUTPUT",
        ) from None
