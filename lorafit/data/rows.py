"""Reading rows from wherever a recipe says, strictly, each with the place it comes from."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lorafit.data import files, tables, text_files
from lorafit.data.faults import DamagedFile, ReadLog, grouped
from lorafit.data.hub import hub_rows
from lorafit.errors import DataError, Fault
from lorafit.recipe.formats import Example, FormatName, Preference, RowFault, detect, parse
from lorafit.recipe.schema import Recipe, Source, Validation

SKIP_HINT = "mend them, or set data.on_bad_row: skip"
_PEEKED = 100

Numbered = text_files.Numbered


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
    name = source.format if source.format != "auto" or not ahead else _detect(ahead, source)
    return name, _parsed(chain(ahead, rows), name, log)


def check_rows(recipe: Recipe) -> list[Fault]:
    """Read and parse every local row of a recipe, and give all that is wrong; hub data sets are left out."""
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
            if not good and not log.faults and not log.bad:
                log.fault("holds no rows", str(source.path), "E3-NO-ROWS")
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
    """Give the files of a source, None for a hub data set."""
    assert source.path is not None
    default = "train" if isinstance(source, Source) else "validation"
    return files.find(source.path, source.split, default)


def _numbered(source: Source | Validation, log: ReadLog) -> Iterator[tuple[str, int, dict[str, Any] | RowFault]]:
    paths = local_files(source)
    if paths is None:
        assert source.path is not None
        for number, fields in hub_rows(source.path, source.split):
            yield source.path, number, fields
        return
    for path in paths:
        with _damage_logged(path, log), _unchanged(path):
            for number, fields_or_fault in _file_rows(path):
                yield str(path), number, fields_or_fault


def _file_rows(file: Path) -> Iterator[Numbered]:
    kind = files.kind(file)
    if kind == ".parquet":
        yield from tables.parquet_rows(file)
    elif kind == ".arrow":
        yield from tables.arrow_rows(file)
    else:
        with files.opened(file) as stream:
            if kind in (".csv", ".tsv"):
                yield from text_files.csv_rows(stream, "\t" if kind == ".tsv" else ",")
            elif kind == ".txt":
                yield from text_files.text_rows(stream)
            else:
                yield from text_files.json_rows(stream, by_line=kind != ".json")


@contextmanager
def _damage_logged(file: Path, log: ReadLog) -> Iterator[None]:
    try:
        yield
    except DamagedFile as damage:
        log.fault(damage.what, str(file), damage.code, damage.fix)
    except OSError as error:
        log.fault(f"cannot be read: {error.strerror or error}", str(file), "E3-FILE-READ")


@contextmanager
def _unchanged(file: Path) -> Iterator[None]:
    """Notice a file that somebody writes while it is read."""
    before = file.stat()
    yield
    after = file.stat()
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
        raise DamagedFile("changed while it was read", "E3-FILE-CHANGED", "start again when it is written")


def _detect(rows: list[Row], source: Source | Validation) -> FormatName:
    columns = Counter(frozenset(row.fields) for row in rows).most_common(1)[0][0]
    return detect(columns, str(source.path))


def _parsed(rows: Iterator[Row], name: FormatName, log: ReadLog) -> Iterator[tuple[Row, Example]]:
    for row in rows:
        try:
            yield row, parse(name, row.fields)
        except RowFault as fault:
            log.bad_row(row.origin, fault)


def _raise_if_any(faults: list[Fault]) -> None:
    if faults:
        raise DataError(faults)
