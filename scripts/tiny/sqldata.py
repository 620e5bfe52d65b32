"""The quickstart chat set: questions over one-table schemas with SQL that only the right reading solves."""

import json
import random
import sqlite3
from pathlib import Path

from scripts.tiny.query import FAMILIES, Query, mistakes, random_query
from scripts.tiny.questions import question
from scripts.tiny.schema import HELD_OUT_POOLS, TRAIN_POOLS, Pools, Row, Schema, random_rows, random_schema

TRAIN_ROWS = 2_400
VALIDATION_ROWS = 240
TABLE_ROWS = (5, 8)
ROW_DRAWS = 40

Example = dict[str, object]
Seen = set[str]


def build(seed: int) -> tuple[list[Example], list[Example]]:
    """Train and held-out examples; no held-out schema or question occurs in train."""
    rng = random.Random(seed)
    seen: Seen = set()
    train = _split(rng, TRAIN_POOLS, TRAIN_ROWS, seen)
    validation = _split(rng, HELD_OUT_POOLS, VALIDATION_ROWS, seen)
    return train, validation


def write(seed: int, folder: Path) -> None:
    """Write both splits as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, examples in zip(("train", "validation"), build(seed), strict=True):
        lines = "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def _split(rng: random.Random, pools: Pools, count: int, seen: Seen) -> list[Example]:
    """Families in equal shares, each question line used once over both splits."""
    examples: list[Example] = []
    while len(examples) < count:
        family = FAMILIES[len(examples) % len(FAMILIES)]
        example = _example(rng, pools, family, seen)
        if example:
            examples.append(example)
    rng.shuffle(examples)
    return examples


def _example(rng: random.Random, pools: Pools, family: str, seen: Seen) -> Example | None:
    schema = random_schema(rng, pools)
    drawn = _decisive(rng, schema, family, pools)
    if drawn is None:
        return None
    query, rows = drawn
    asked = question(rng, query)
    # A short question such as "What is the highest price?" may recur in train under other schemas,
    # but never crosses from train to held-out, nor repeats within one schema.
    key = asked if pools is HELD_OUT_POOLS else f"{schema.prompt()}\n{asked}"
    if key in seen:
        return None
    seen |= {key, asked}
    return {
        "messages": [
            {"role": "user", "content": f"{schema.prompt()}\n{asked}"},
            {"role": "assistant", "content": query.sql()},
        ],
        "setup_sql": f"{schema.create_sql()} {schema.insert_sql(rows)}",
    }


def _decisive(rng: random.Random, schema: Schema, family: str, pools: Pools) -> tuple[Query, list[Row]] | None:
    """A query and rows on which it answers something, and every mistake answers something else."""
    for _ in range(ROW_DRAWS):
        rows = random_rows(rng, schema, rng.randint(*TABLE_ROWS), pools.invent)
        query = random_query(rng, schema, family, rows)
        if not is_tied(query, schema, rows) and is_decisive(query, schema, rows):
            return query, rows
    return None


def is_tied(query: Query, schema: Schema, rows: list[Row]) -> bool:
    """Whether two rows could both come first, so that the question has no single answer."""
    if not query.order_by:
        return False
    values = [int(row[schema.columns.index(query.order_by)]) for row in rows]
    extreme = max(values) if query.direction == "DESC" else min(values)
    return values.count(extreme) > 1


def is_decisive(query: Query, schema: Schema, rows: list[Row]) -> bool:
    """Whether the rows tell the query from every mistake."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(f"{schema.create_sql()} {schema.insert_sql(rows)}")
        right = _result(connection, query)
        if not right or right in (["(None,)"], ["(0,)"]):
            return False
        return all(_result(connection, slip) != right for slip in mistakes(query, schema, rows))
    finally:
        connection.close()


def _result(connection: sqlite3.Connection, query: Query) -> list[str]:
    """The result rows without their order, as a grader compares them."""
    return sorted(map(str, connection.execute(query.sql()).fetchall()))
