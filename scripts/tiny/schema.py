"""One-table schemas: how they are drawn and how they are written down."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from scripts.tiny import words

Value = str | int
INVENTED_VALUES = 0.3
Row = tuple[Value, ...]
Invent = Callable[[random.Random], str]
# No name may be one of these: SQLite would read it as a keyword.
SQL_WORDS = frozenset(
    words.pool("""add all alter and any as asc between by case cast check cross desc drop each else end
escape except exists fail for from full glob group having if in index inner insert into is
isnull join key left like limit match natural no not notnull null of offset on or order outer
plan pragma query raise row rows select set table temp then to union unique update using
vacuum values view when where with""")
)


@dataclass(frozen=True)
class Schema:
    """A table with its text columns and its number columns, in the written order."""

    table: str
    columns: tuple[str, ...]
    text: tuple[str, ...]
    numbers: tuple[str, ...]

    def kind(self, column: str) -> str:
        """The SQL type of a column."""
        return "TEXT" if column in self.text else "INTEGER"

    def prompt(self) -> str:
        """The schema as a user states it."""
        listed = ", ".join(f"{column} {self.kind(column)}" for column in self.columns)
        return f"Table {self.table}: {listed}"

    def create_sql(self) -> str:
        """The statement that makes the table."""
        listed = ", ".join(f"{column} {self.kind(column)}" for column in self.columns)
        return f"CREATE TABLE {self.table} ({listed});"

    def insert_sql(self, rows: list[Row]) -> str:
        """The statement that fills the table."""
        listed = ", ".join(f"({', '.join(literal(value) for value in row)})" for row in rows)
        return f"INSERT INTO {self.table} VALUES {listed};"


@dataclass(frozen=True)
class Pools:
    """The names a schema may be drawn from, and how often an invented one replaces them."""

    tables: list[str]
    text: list[str]
    numbers: list[str]
    invent: Invent
    invented_share: float


_KNOWN = (words.TABLES, words.TEXT_COLUMNS, words.NUMBER_COLUMNS)
PRETRAIN_POOLS = Pools(*_KNOWN, words.pseudo_word, invented_share=0.5)
TRAIN_POOLS = Pools(*_KNOWN, words.soft_word, invented_share=0.15)
HELD_OUT_POOLS = Pools(
    words.HELD_OUT_TABLES,
    words.TEXT_COLUMNS + 3 * words.HELD_OUT_TEXT_COLUMNS,
    words.NUMBER_COLUMNS + 3 * words.HELD_OUT_NUMBER_COLUMNS,
    words.soft_word,
    invented_share=0.0,
)


def literal(value: Value) -> str:
    """The value as SQL writes it."""
    return str(value) if isinstance(value, int) else f"'{value}'"


def random_schema(rng: random.Random, pools: Pools) -> Schema:
    """Two to four columns, always with a text and a number among them."""
    text_count, number_count = rng.choice(((1, 1), (1, 2), (2, 1), (2, 1), (2, 2), (3, 1), (1, 3)))
    names: list[str] = []
    for pool, count in ((pools.tables, 1), (pools.text, text_count), (pools.numbers, number_count)):
        for _ in range(count):
            names.append(_fresh_name(rng, pools, pool, names))
    text, numbers = tuple(names[1 : 1 + text_count]), tuple(names[1 + text_count :])
    columns = list(text + numbers)
    rng.shuffle(columns)
    return Schema(names[0], tuple(columns), text, numbers)


def _fresh_name(rng: random.Random, pools: Pools, known: list[str], taken: list[str]) -> str:
    while True:
        invents = rng.random() < pools.invented_share
        name = pools.invent(rng).lower() if invents else rng.choice(known)
        if name not in taken and name not in SQL_WORDS:
            return name


def random_rows(rng: random.Random, schema: Schema, count: int, invent: Invent) -> list[Row]:
    """Rows whose text values repeat, so that a filter can match more than one of them."""
    shared = {column: [random_value(rng, column, invent) for _ in range(rng.randint(2, 4))] for column in schema.text}
    scale = {column: rng.choice((9, 99, 99, 999)) for column in schema.numbers}

    def cell(column: str) -> Value:
        return rng.choice(shared[column]) if column in shared else rng.randint(1, scale[column])

    return [tuple(cell(column) for column in schema.columns) for _ in range(count)]


def random_value(rng: random.Random, column: str, invent: Invent) -> str:
    """A text value that suits the column, or an invented one."""
    if rng.random() < INVENTED_VALUES:
        return invent(rng)
    return rng.choice(words.VALUES_OF.get(column, words.VALUES))
