"""Files behind a URL: whatever fsspec reaches, opened like a file that lies here."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from lorafit.data import files
from lorafit.data.faults import DamagedFile
from lorafit.errors import DataError, MachineError, first_line

BUFFER_BYTES = 2**20


@dataclass(frozen=True)
class RemoteFile:
    """A file of rows behind a URL."""

    system: Any  # fsspec's file system
    place: str  # as that file system names it
    url: str

    @property
    def path(self) -> PurePosixPath:
        """Give the path, of which the last part is the file's name: without the query of a web address."""
        return PurePosixPath(urlsplit(self.place).path if _is_web(self.url) else self.place)

    @contextmanager
    def opened(self) -> Iterator[tuple[io.BufferedReader, int]]:
        """Open the file; give its bytes and how many there are."""
        with _failures_named(self.url):
            size, raw = int(self.system.size(self.place) or 0), self.system.open(self.place, "rb")
        with raw:
            yield io.BufferedReader(_Guarded(raw), BUFFER_BYTES), size

    def version(self) -> str:
        """Name the state of the file, so that a change can be noticed."""
        with _failures_named(self.url):
            self.system.invalidate_cache()
            return str(self.system.ukey(self.place))


def find(url: str, split: str, default_split: str) -> list[RemoteFile]:
    """Give the files that a URL means: one, those of a folder, or those that a pattern matches.

    Raises DataError when nothing is there, MachineError when a package for the protocol is missing.
    """
    system, place = _system(url)
    with _failures_named(url):
        if _is_web(url) or (system.exists(place) and not system.isdir(place)):
            if not system.exists(place):
                raise FileNotFoundError
            files.of_file(url, split, default_split)
            return [RemoteFile(system, place, url)]
        if system.isdir(place):
            chosen = files.of_folder(_paths(system.find(place)), url, split, default_split)
        elif files.is_pattern(place):
            chosen = files.of_pattern(_paths(system.glob(place)), url, split, default_split)
        else:
            raise FileNotFoundError
    protocol = url.partition("://")[0]
    return [RemoteFile(system, str(path), f"{protocol}://{str(path).lstrip('/')}") for path in chosen]


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _paths(names: list[str]) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in sorted(names)]


def _system(url: str) -> tuple[Any, str]:
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        raise MachineError(
            "data behind a URL needs the package fsspec", fix="pip install fsspec", where=url, code="E5-NO-FSSPEC"
        ) from None
    try:
        system, place = fsspec.core.url_to_fs(url)
    except ImportError as error:
        what = f"a package for {url.partition('://')[0]}:// is missing: {first_line(error)}"
        raise MachineError(what, where=url, fix="install it, or download the files", code="E5-NO-FSSPEC") from None
    except ValueError as error:
        raise DataError(first_line(error), where=url, fix="download the files", code="E3-NO-FILE") from None
    except Exception as error:  # noqa: BLE001  # each protocol fails in its own way
        raise _unreachable(url, error) from None
    return system, place


@contextmanager
def _failures_named(url: str) -> Iterator[None]:
    """Call by its name what a protocol's package raises, which may be anything."""
    try:
        yield
    except (DataError, MachineError, DamagedFile):
        raise
    except FileNotFoundError:
        raise DataError(
            "there is no such file or folder", where=url, fix="check the address", code="E3-NO-FILE"
        ) from None
    except Exception as error:  # noqa: BLE001
        raise _unreachable(url, error) from None


def _unreachable(url: str, error: Exception) -> DataError:
    what = f"cannot be read: {type(error).__name__}: {first_line(error)}"
    return DataError(what, where=url, fix="check the address, the network and who may read it", code="E3-FILE-READ")


class _Guarded(io.RawIOBase):
    """A remote file's bytes, whose failures are those of a file."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self.stream.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self.stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self.stream.tell())

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self.stream.read(len(buffer))
        except Exception as error:  # noqa: BLE001
            raise DamagedFile(f"cannot be read on: {first_line(error)}", "E3-FILE-READ") from None
        buffer[: len(data)] = data
        return len(data)
