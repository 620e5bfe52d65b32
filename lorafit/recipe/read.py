"""The bytes of a recipe file, and the text in them: regular files of a sane size, UTF-8 only."""

import codecs
import os
import stat
from contextlib import suppress
from pathlib import Path

from lorafit.errors import RecipeError
from lorafit.recipe.problems import Located, Place, Problem, error_of, printable

MAX_BYTES = 256 * 1024
SUFFIXES = (".yaml", ".yml", ".json")

_PATH_CHARACTERS = 200


def source_name(path: Path) -> str:
    """Give the path as it is shown in messages."""
    return printable(str(path), _PATH_CHARACTERS)


def read_bytes(path: Path) -> bytes:
    """Read a recipe file. RecipeError when it is not there, too big, or anything but a regular file."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:  # Path.open has no opener
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refused(path, "not a regular file", "give the path of a recipe")
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        what = "a link to a file that is not there" if path.is_symlink() else "no such file"
        raise _refused(path, what, _neighbour(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _refused(path, f"cannot be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise _refused(path, f"more than {MAX_BYTES // 1024} KiB", "a recipe is a page of text", "E2-SIZE")
    return content


def decode(content: bytes, source: str) -> str:
    """Give the text, without a byte order mark. RecipeError, at its line and column, when it is not UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise RecipeError("the text is UTF-16", where=source, fix="save it as UTF-8", code="E2-UTF8")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        lines = content[: error.start].decode().split("\n")
        place = Place(len(lines), len(lines[-1]) + 1, source)
        what = f"the byte 0x{content[error.start]:02X} is not UTF-8"
        raise error_of([Located(place, Problem((), what, "save the text as UTF-8", "E2-UTF8"))]) from None


def _open_without_waiting(path: str, flags: int) -> int:
    """Open; a FIFO would otherwise keep us until someone writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _refused(path: Path, what: str, fix: str = "", code: str = "E2-FILE") -> RecipeError:
    return RecipeError(what, where=source_name(path), fix=fix, code=code)


def _neighbour(path: Path) -> str:
    """Name the recipe in the same folder whose name is most like the one that is not there."""
    from lorafit.recipe.suggest import did_you_mean, nearest

    names: list[str] = []
    with suppress(OSError):
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in SUFFIXES]
    close = nearest(path.name, names)
    return did_you_mean(source_name(path.parent / close)) if close else ""
