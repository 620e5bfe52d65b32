"""Execution accuracy for text-to-SQL: does the predicted query return what the gold query returns?

Both run with the standard library's sqlite3, on a database in memory that the row's `setup_sql` fills. A model's
answer is untrusted: it may only read, within limits of steps, memory, rows and seconds.
"""

import math
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

Cell = None | int | float | str | bytes
Row = tuple[Cell, ...]

STEP_LIMIT = 20_000_000  # virtual machine instructions: the same verdict on a slow and on a fast machine
SECONDS_LIMIT = 30.0  # a belt to those braces
STEPS_PER_CHECK = 10_000
ROW_LIMIT = 10_000
CELL_LIMIT_BYTES = 1_000_000
HEAP_LIMIT_BYTES = 256 * 1024 * 1024  # of SQLite in this process, the only thing a sort can fill

READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
CREATING = {
    sqlite3.SQLITE_CREATE_TABLE,
    sqlite3.SQLITE_CREATE_INDEX,
    sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_REINDEX,
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,  # of the schema table, by CREATE itself
    sqlite3.SQLITE_TRANSACTION,
}
# Functions that reach out of the database in some builds of SQLite.
FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}

FENCE = re.compile(r"```(?:sql|sqlite)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \[[^\]]*\] | --[^\n]* | /\*.*?(?:\*/|\Z) | \w+ | [()]""",
    re.DOTALL | re.VERBOSE,
)


class QueryFailed(Exception):
    """A statement is refused, breaks, returns no table, or runs into a limit."""


class Database:
    """A throw-away database in memory that answers single reading statements."""

    def __init__(self, setup_sql: str) -> None:
        """Run the set-up, which may create and fill tables and nothing else; QueryFailed if it breaks."""
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._limit_memory()
        self._allow(READING | CREATING)
        try:
            with self._limits():
                self._connection.executescript(setup_sql)
        except QueryFailed:
            self.close()
            raise
        self._allow(READING)

    def query(self, statement: str) -> list[Row]:
        """Give every row of one SELECT, WITH or VALUES statement; QueryFailed for anything else."""
        with self._limits():
            cursor = self._connection.execute(statement)
            if cursor.description is None:
                raise QueryFailed("the statement returns no table")
            rows: list[Row] = cursor.fetchmany(ROW_LIMIT + 1)
        if len(rows) > ROW_LIMIT:
            raise QueryFailed(f"the statement returns more than {ROW_LIMIT} rows")
        return rows

    def close(self) -> None:
        """Forget the database."""
        self._connection.close()

    def _limit_memory(self) -> None:
        self._connection.execute("PRAGMA temp_store = MEMORY")  # sort in memory, under the limit, not on disk
        self._connection.execute(f"PRAGMA hard_heap_limit = {HEAP_LIMIT_BYTES}")
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, CELL_LIMIT_BYTES)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)

    def _allow(self, actions: set[int]) -> None:
        def verdict(action: int, first: str | None, second: str | None, *_: str | None) -> int:
            function = second if action == sqlite3.SQLITE_FUNCTION else None
            allowed = action in actions and function not in FORBIDDEN_FUNCTIONS
            return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

        self._connection.set_authorizer(verdict)

    @contextmanager
    def _limits(self) -> Iterator[None]:
        """Stop what runs too long, and turn every way of failing into one."""
        checks, deadline = iter(range(STEP_LIMIT // STEPS_PER_CHECK)), time.monotonic() + SECONDS_LIMIT

        def out_of_bounds() -> bool:
            return next(checks, None) is None or time.monotonic() > deadline

        self._connection.set_progress_handler(out_of_bounds, STEPS_PER_CHECK)
        try:
            yield
        # sqlite3.Warning: two statements (to Python 3.11); ValueError: NUL or a lone surrogate in the text
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
            raise QueryFailed(str(error) or type(error).__name__) from error


def same_result(predicted: str, gold: str, setup_sql: str) -> bool:
    """Tell whether two statements return the same table; QueryFailed only if the set-up or the gold breaks.

    Rows compare as a multiset, or in order when the gold statement orders them; column names do not count.
    """
    with closing(Database(setup_sql)) as database:
        expected = database.query(statement_in(gold))
        try:
            found = database.query(statement_in(predicted))
        except QueryFailed:
            return False
    return same_rows(found, expected, ordered=orders_its_rows(statement_in(gold)))


def statement_in(answer: str) -> str:
    """Give the first fenced block of an answer, or the whole of it."""
    fenced = FENCE.search(answer)
    return (fenced.group(1) if fenced else answer).strip()


def orders_its_rows(statement: str) -> bool:
    """Tell whether ORDER BY stands at the top level: not in a subquery, window, string or comment."""
    depth, before = 0, ""
    for match in TOKEN.finditer(statement):
        token = match.group().lower()
        if token.startswith(("--", "/*")):
            continue
        depth += (token == "(") - (token == ")")
        if depth == 0 and before == "order" and token == "by":
            return True
        before = token
    return False


def same_rows(found: list[Row], expected: list[Row], *, ordered: bool) -> bool:
    """Compare two tables, as lists or as multisets; 1 equals 1.0, and floats may differ in the last digits."""
    if not ordered:
        found, expected = sorted(found, key=_sort_key), sorted(expected, key=_sort_key)
    return len(found) == len(expected) and all(map(_same_row, found, expected))


def _same_row(one: Row, other: Row) -> bool:
    return len(one) == len(other) and all(map(_same_cell, one, other))


def _same_cell(one: Cell, other: Cell) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        # sums of floats depend on the order of adding; whole numbers do not
        return one == other or (float in (type(one), type(other)) and math.isclose(one, other, rel_tol=1e-9))
    return one == other


def _sort_key(row: Row) -> tuple[tuple[tuple[int, str | bytes], ...], tuple[float, ...]]:
    """Exact cells first, so that two nearly equal numbers cannot tear their rows apart."""
    return tuple(map(_exact_part, row)), tuple(_numbers(row))


def _exact_part(cell: Cell) -> tuple[int, str | bytes]:
    match cell:
        case None:
            return 0, ""
        case int() | float():
            return 1, ""
        case str():
            return 2, cell
        case _:
            return 3, cell


def _numbers(row: Row) -> Iterable[int | float]:
    return (cell for cell in row if isinstance(cell, int | float))
