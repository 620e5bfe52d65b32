"""The query families: each query as SQL, as plain English, and with its plausible mistakes."""

import random
from dataclasses import dataclass, replace

from scripts.tiny import words
from scripts.tiny.schema import Row, Schema, Value, literal, random_value

AGGREGATES = ("MAX", "MIN", "AVG", "SUM")
ENGLISH = {
    "MAX": "the largest {}",
    "MIN": "the smallest {}",
    "AVG": "the average {}",
    "SUM": "the sum of {}",
    "": "the {}",
    "DISTINCT": "each different {}",
    "COUNT DISTINCT": "the number of different {}",
    "COUNT": "the number of {}",
}
# A plain column is not compared with its aggregates: over one matching row they agree, and rightly so.
SLIPS = {
    "": ("COUNT",),
    "DISTINCT": ("", "COUNT DISTINCT"),
    "COUNT DISTINCT": ("COUNT", "DISTINCT"),
    **{name: ("COUNT", *(other for other in AGGREGATES if other != name)) for name in AGGREGATES},
}
ENGLISH_OPERATOR = {"=": "is", ">": "is above", "<": "is below"}


@dataclass(frozen=True)
class Filter:
    """One comparison of a column with a value."""

    column: str
    operator: str
    value: Value

    def sql(self) -> str:
        """As SQL."""
        return f"{self.column} {self.operator} {literal(self.value)}"

    def english(self) -> str:
        """As plain English."""
        return f"{self.column} {ENGLISH_OPERATOR[self.operator]} {self.value}"


@dataclass(frozen=True)
class Query:
    """A one-table query: function over target, filters, and an optional first-by-order."""

    family: str
    table: str
    function: str
    target: str
    filters: tuple[Filter, ...] = ()
    order_by: str = ""
    direction: str = ""

    def sql(self) -> str:
        """As SQL."""
        where = " AND ".join(part.sql() for part in self.filters)
        tail = f" WHERE {where}" if where else ""
        if self.order_by:
            tail += f" ORDER BY {self.order_by} {self.direction} LIMIT 1"
        return f"SELECT {self._selected()} FROM {self.table}{tail}"

    def _selected(self) -> str:
        if self.function == "COUNT DISTINCT":
            return f"COUNT(DISTINCT {self.target})"
        if self.function == "DISTINCT":
            return f"DISTINCT {self.target}"
        return f"{self.function}({self.target})" if self.function else self.target

    def english(self) -> str:
        """As plain English."""
        wanted = ENGLISH[self.function].format("rows" if self.target == "*" else self.target)
        where = " and ".join(part.english() for part in self.filters)
        tail = f" where {where}" if where else ""
        if self.order_by:
            extreme = "largest" if self.direction == "DESC" else "smallest"
            tail += f" with the {extreme} {self.order_by}"
        return f"{wanted} in {self.table}{tail}"


FAMILIES = (
    "count_all", "count_text", "count_number", "select_text", "select_number", "select_both",
    "aggregate", "aggregate_where", "first", "distinct", "count_distinct",
)  # fmt: skip


def random_query(rng: random.Random, schema: Schema, family: str, rows: list[Row] | None = None) -> Query:
    """A query of a family; its filter values come from the rows where there are any."""
    text, number = rng.choice(schema.text), rng.choice(schema.numbers)
    is_text = Filter(text, "=", _text_value(rng, schema, text, rows))
    is_number = Filter(number, rng.choice("<>"), _number_value(rng, schema, number, rows))
    other = rng.choice([column for column in schema.columns if column != text])
    free = [column for column in schema.columns if column not in (text, number)] or [number]
    unfiltered = rng.choice([column for column in schema.columns if column != number])
    base = Query(family, schema.table, "COUNT", "*")
    return {
        "count_all": base,
        "count_text": replace(base, filters=(is_text,)),
        "count_number": replace(base, filters=(is_number,)),
        "select_text": replace(base, function="", target=other, filters=(is_text,)),
        "select_number": replace(base, function="", target=unfiltered, filters=(is_number,)),
        "select_both": replace(base, function="", target=rng.choice(free), filters=(is_text, is_number)),
        "aggregate": replace(base, function=rng.choice(AGGREGATES), target=number),
        "aggregate_where": replace(base, function=rng.choice(AGGREGATES), target=number, filters=(is_text,)),
        "first": replace(base, function="", target=unfiltered, order_by=number, direction=rng.choice(("ASC", "DESC"))),
        "distinct": replace(base, function="DISTINCT", target=text),
        "count_distinct": replace(base, function="COUNT DISTINCT", target=text),
    }[family]


def _text_value(rng: random.Random, schema: Schema, column: str, rows: list[Row] | None) -> Value:
    return rng.choice(rows)[schema.columns.index(column)] if rows else random_value(rng, column, words.pseudo_word)


def _number_value(rng: random.Random, schema: Schema, column: str, rows: list[Row] | None) -> Value:
    if not rows:
        return rng.randint(1, rng.choice((9, 99, 999)))
    return rng.choice(rows)[schema.columns.index(column)]


def mistakes(query: Query, schema: Schema, rows: list[Row]) -> list[Query]:
    """Every query one plausible slip away: column, value, operator, filter, function or order."""
    wrong = _wrong_targets(query, schema) + _wrong_functions(query, schema)
    for position, part in enumerate(query.filters):
        kept = query.filters[:position] + query.filters[position + 1 :]
        wrong.append(replace(query, filters=kept))
        for slip in _wrong_filters(part, schema, rows):
            changed = (*query.filters[:position], slip, *query.filters[position + 1 :])
            wrong.append(replace(query, filters=changed))
    if query.order_by:
        turned = "ASC" if query.direction == "DESC" else "DESC"
        wrong += [replace(query, direction=turned), replace(query, order_by="", direction="")]
        others = [name for name in schema.columns if name != query.order_by]
        wrong += [replace(query, order_by=name) for name in others if name != query.target]
    return wrong


def _wrong_targets(query: Query, schema: Schema) -> list[Query]:
    if query.target == "*":
        return []
    return [replace(query, target=name) for name in schema.columns if name != query.target]


def _wrong_functions(query: Query, schema: Schema) -> list[Query]:
    if query.target == "*":
        return [replace(query, function="COUNT DISTINCT", target=name) for name in schema.text]
    return [replace(query, function=name) for name in SLIPS[query.function]]


def _wrong_filters(part: Filter, schema: Schema, rows: list[Row]) -> list[Filter]:
    position = schema.columns.index(part.column)
    values = sorted({row[position] for row in rows} - {part.value}, key=str)
    alike = schema.text if part.column in schema.text else schema.numbers
    slips = [replace(part, value=value) for value in values]
    slips += [replace(part, column=name) for name in alike if name != part.column]
    if part.operator == "=":
        return slips
    return [*slips, replace(part, operator="<" if part.operator == ">" else ">")]
