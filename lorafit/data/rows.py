"""Reading rows from wherever a recipe says, strictly, each with the place it comes from."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lorafit.data import files, remote, tables, text_files
from lorafit.data.faults import DamagedFile, ReadLog, grouped
from lorafit.data.hub import hub_rows
from lorafit.data.json_files import json_rows
from lorafit.data.layout import Layout, find_layout
from lorafit.data.lines import Numbered
from lorafit.data.remote import RemoteFile
from lorafit.data.unpack import unpacked
from lorafit.errors import DataError, Fault
from lorafit.recipe.formats import Example, FormatName, Preference, RowFault
from lorafit.recipe.schema import Recipe, Source, Validation

NO_ROWS_HINT = "limit, on_bad_row and on_overlong decide which rows are kept"
READ_HINT = "look for the file and the right to read it"
SKIP_HINT = "mend them, or set data.on_bad_row: skip"
_PEEKED = 100


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read: its file and line (1-based), and its fields."""

    file: str
    line: int
    fields: dict[str, Any]

    @property
    def origin(self) -> str:
        """Give the place as `file:line`."""
        return f"{self.file}:{self.line}"


def read_rows(source: Source | Validation, log: ReadLog | None = None) -> Iterator[Row]:
    """Give the rows of a source in order, up to its limit.

    What is wrong goes to `log`; without one, DataError is raised at the end with all of it.
    """
    kept = log or ReadLog()
    numbered = islice(_numbered(source, kept), source.limit)
    for file, line, fields in numbered:
        if isinstance(fields, RowFault):
            kept.bad_row(f"{file}:{line}", fields)
        else:
            yield Row(file, line, fields)
    if log is None:
        _raise_if_any(kept.faults + grouped(kept.bad, SKIP_HINT))


def read_examples(source: Source | Validation, log: ReadLog) -> tuple[FormatName, Iterator[tuple[Row, Example]]]:
    """Find the format of a source's rows and give the rows with what they say; bad ones go to `log`.

    Raises DataError when the columns fit no format, or several.
    """
    rows = read_rows(source, log)
    ahead = list(islice(rows, _PEEKED))
    layout = find_layout(source, [row.fields for row in ahead])
    return layout.format, _parsed(chain(ahead, rows), layout, log)


def check_rows(recipe: Recipe) -> list[Fault]:
    """Read and parse every local row of a recipe, and give all that is wrong; what does not lie here is left out."""
    found: list[Fault] = []
    for source in sources(recipe):
        log = ReadLog()
        try:
            if local_files(source) is None:
                continue
            _, examples = read_examples(source, log)
            kinds = Counter(type(example) for _, example in examples)
            good = sum(kinds.values())
            if kinds[Preference]:
                found.append(preferences_fault(kinds[Preference], str(source.path)))
            if not good and not log.faults and (not log.bad or recipe.data.on_bad_row == "skip"):
                what = f"none of {log.bad_count:,} rows is left" if log.bad else "holds no rows"
                log.fault(what, str(source.path), "E3-NO-ROWS", NO_ROWS_HINT)
        except DataError as error:
            found += error.faults
        found += log.faults
        found += grouped(log.bad, SKIP_HINT) if recipe.data.on_bad_row == "error" else []
    return found


def preferences_fault(rows: int, where: str) -> Fault:
    """Give the fault of rows that can be read, and that nothing here trains."""
    what = f"{rows:,} good rows are preferences, and this version does not train on preferences"
    fix = "train on the liked answers: prompt_completion with columns: {completion: chosen}, or chat"
    return Fault(what, where, fix, "E3-PREFERENCE")


def sources(recipe: Recipe) -> list[Source | Validation]:
    """Give the sources of a recipe: those trained on, then the one to validate on, if it has a path."""
    held_out = recipe.data.validation
    return [*recipe.data.train, *([held_out] if held_out is not None and held_out.path is not None else [])]


def local_files(source: Source | Validation) -> list[Path] | None:
    """Give the files of a source, None where they do not lie here: a URL or a hub data set."""
    assert source.path is not None
    return files.find(source.path, source.split, _default_split(source))


def _default_split(source: Source | Validation) -> str:
    return "train" if isinstance(source, Source) else "validation"


def _numbered(source: Source | Validation, log: ReadLog) -> Iterator[tuple[str, int, dict[str, Any] | RowFault]]:
    assert source.path is not None
    paths = local_files(source)
    if paths is not None:
        for path in paths:
            yield from _of_file(path, str(path), log)
    elif files.is_url(source.path):
        for file in remote.find(source.path, source.split, _default_split(source)):
            yield from _of_file(file, file.url, log)
    else:
        log.note("the rows came through the package datasets, which writes null for a field that a row lacks")
        for number, fields in hub_rows(source.path, source.split):
            yield source.path, number, fields


def _of_file(file: Path | RemoteFile, name: str, log: ReadLog) -> Iterator[tuple[str, int, dict[str, Any] | RowFault]]:
    with _damage_logged(name, log), _unchanged(file):
        for number, fields_or_fault in _file_rows(file, log):
            yield name, number, fields_or_fault


def _file_rows(file: Path | RemoteFile, log: ReadLog) -> Iterator[Numbered]:
    path = file if isinstance(file, Path) else file.path
    kind = files.kind(path)
    if isinstance(file, Path) and kind in (".parquet", ".arrow"):
        yield from _table_rows(file, kind)
        return
    with _opened(file) as (raw, size):
        if kind in (".parquet", ".arrow"):
            yield from _table_rows(raw, kind)
            return
        stream = unpacked(raw, size)
        if stream is not raw and path.suffix.lower() not in files.PACKED:
            log.note(f"{path.name} is packed, though its name does not say so, and was unpacked")
        if kind in (".csv", ".tsv"):
            yield from text_files.csv_rows(stream, "\t" if kind == ".tsv" else ",")
        elif kind == ".txt":
            yield from text_files.text_rows(stream, log)
        else:
            yield from json_rows(stream, by_line=kind != ".json")


def _table_rows(file: Path | BufferedReader, kind: str) -> Iterator[Numbered]:
    return tables.parquet_rows(file) if kind == ".parquet" else tables.arrow_rows(file)


@contextmanager
def _opened(file: Path | RemoteFile) -> Iterator[tuple[BufferedReader, int]]:
    if isinstance(file, RemoteFile):
        with file.opened() as opened:
            yield opened
        return
    with file.open("rb") as stream:
        yield stream, file.stat().st_size


@contextmanager
def _damage_logged(file: str, log: ReadLog) -> Iterator[None]:
    try:
        yield
    except DamagedFile as damage:
        log.fault(damage.what, file, damage.code, damage.fix)
    except OSError as error:
        log.fault(f"cannot be read: {error.strerror or error}", file, "E3-FILE-READ", READ_HINT)


@contextmanager
def _unchanged(file: Path | RemoteFile) -> Iterator[None]:
    """Notice a file that somebody writes while it is read."""
    before = _version(file)
    try:
        yield
    except DamagedFile:
        if _version(file) == before:
            raise
    if _version(file) != before:
        raise DamagedFile("changed while it was read", "E3-FILE-CHANGED", "start again when it is written")


def _version(file: Path | RemoteFile) -> object:
    if isinstance(file, RemoteFile):
        return file.version()
    try:
        now = file.stat()
    except FileNotFoundError:
        return "gone"
    return now.st_size, now.st_mtime_ns, now.st_ino


def _parsed(rows: Iterator[Row], layout: Layout, log: ReadLog) -> Iterator[tuple[Row, Example]]:
    for row in rows:
        try:
            yield row, layout.parse(row.fields)
        except RowFault as fault:
            log.bad_row(row.origin, fault)
    if note := layout.note():
        log.note(note)


def _raise_if_any(faults: list[Fault]) -> None:
    if faults:
        raise DataError(faults)
