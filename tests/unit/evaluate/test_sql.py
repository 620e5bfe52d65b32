"""Execution accuracy: against sqlite itself, and against answers that mean harm."""

import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.evaluate import sql
from lorafit.evaluate.sql import Database, QueryFailed, orders_its_rows, same_result, same_rows, statement_in

SETUP = """
CREATE TABLE cities (name TEXT, country TEXT, people INTEGER, area REAL);
INSERT INTO cities VALUES ('Oslo', 'Norway', 700, 454.1), ('Bergen', 'Norway', 290, 464.7),
                          ('Rome', 'Italy', 2800, 1285.0), ('Milan', 'Italy', 1370, 181.8);
CREATE INDEX by_country ON cities (country);
CREATE VIEW big AS SELECT * FROM cities WHERE people > 500;
"""
GOLD = "SELECT name FROM cities WHERE country = 'Norway'"


@pytest.mark.parametrize(
    "answer",
    [
        GOLD,
        GOLD + ";",
        "select name as city from cities where country='Norway' order by people",
        "SELECT name FROM (SELECT * FROM cities) WHERE country LIKE 'norway'",
        "VALUES ('Bergen'), ('Oslo')",
        "```sql\nSELECT name FROM cities WHERE country = 'Norway'\n```",
        "Here it is:\n```\nSELECT name FROM cities WHERE country = 'Norway';\n```\nIt lists them.",
        "SELECT name FROM cities WHERE country = 'Norway' -- and no others",
    ],
)
def test_the_same_rows_are_right_however_they_are_asked_for(answer: str) -> None:
    assert same_result(answer, GOLD, SETUP)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        ";",
        "The cities are Oslo and Bergen.",
        "SELECT name FROM cities",
        "SELECT name, people FROM cities WHERE country = 'Norway'",
        "SELECT DISTINCT country FROM cities",
        "SELECT name FROM cities WHERE country = 'Norway' UNION ALL SELECT 'Oslo'",
        "SELECT name FROM towns",
        "SELECT name FROM cities WHERE country = 'Norway'; SELECT 1",
        "SELECT name FROM cities WHERE country = 'Norway'; DROP TABLE cities",
        "SELECT 'Oslo\0'",
        "SELECT '\ud800'",
        "SELECT CAST(x'ff' AS TEXT)",
        "SELECT sum(9223372036854775807) FROM cities",
    ],
)
def test_other_rows_and_broken_statements_are_wrong(answer: str) -> None:
    assert not same_result(answer, GOLD, SETUP)


def test_order_counts_only_where_the_gold_query_orders() -> None:
    ordered = "SELECT name FROM cities ORDER BY people DESC"
    assert same_result("SELECT name FROM cities ORDER BY 0 - people", ordered, SETUP)
    assert not same_result("SELECT name FROM cities ORDER BY people", ordered, SETUP)
    assert same_result("SELECT name FROM cities ORDER BY people", "SELECT name FROM cities", SETUP)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT a FROM t ORDER BY a",
        "select a from t order\n by a limit 3",
        "WITH r AS (SELECT a FROM t) SELECT a FROM r /* x */ ORDER /* y */ BY a",
        "SELECT (SELECT 1) FROM t UNION SELECT 2 ORDER BY 1",
        "SELECT ')' FROM t ORDER BY a",
    ],
)
def test_order_by_at_the_top_level_is_seen(statement: str) -> None:
    assert orders_its_rows(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT a FROM t",
        "SELECT a FROM (SELECT a FROM t ORDER BY a)",
        "SELECT row_number() OVER (ORDER BY a) FROM t",
        "SELECT 'x ORDER BY y' FROM t",
        'SELECT "ORDER BY" FROM t',
        "SELECT [order by], `order by` FROM t",
        "SELECT a FROM t -- ORDER BY a",
        "SELECT a FROM t /* ORDER BY a */",
        'SELECT "order", by FROM t',
    ],
)
def test_order_by_elsewhere_is_not(statement: str) -> None:
    assert not orders_its_rows(statement)


HARM = [
    "ATTACH DATABASE 'stolen.db' AS x",
    "VACUUM INTO 'stolen.db'",
    "PRAGMA table_info(cities)",
    "SELECT * FROM pragma_table_info('cities')",
    "PRAGMA hard_heap_limit = 0",
    "INSERT INTO cities VALUES ('x', 'y', 1, 1)",
    "UPDATE cities SET name = 'x'",
    "DELETE FROM cities",
    "DROP TABLE cities",
    "CREATE TABLE x (a)",
    "CREATE TEMP TABLE x (a)",
    "CREATE VIRTUAL TABLE x USING fts5(a)",
    "BEGIN",
    "SELECT load_extension('x')",
    "SELECT writefile('stolen.db', 'x')",
]


@pytest.mark.parametrize("statement", HARM)
def test_an_answer_may_only_read(statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database(SETUP)
    before = database.query("SELECT * FROM cities")
    with pytest.raises(QueryFailed):
        database.query(statement)
    assert database.query("SELECT * FROM cities") == before
    assert list(tmp_path.iterdir()) == []
    database.close()


@pytest.mark.parametrize(
    "setup",
    [
        "ATTACH DATABASE 'stolen.db' AS x",
        "VACUUM INTO 'stolen.db'",
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE a (b); DROP TABLE a",
        "CREATE VIRTUAL TABLE x USING fts5(a)",
        "SELECT load_extension('x')",
        "CREATE TABLE a (b); CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM a; END",
        "CREATE TABLE broken (",
    ],
)
def test_a_set_up_may_only_create_and_fill(setup: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QueryFailed):
        Database(setup)
    assert list(tmp_path.iterdir()) == []


FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "


@pytest.mark.parametrize(
    "statement",
    [
        FOREVER + "SELECT count(*) FROM n",
        FOREVER + "SELECT i FROM n",  # endless rows
        FOREVER + "SELECT printf('%.*c', 900000, 'x') || i AS s FROM n ORDER BY s",  # endless memory
        "SELECT zeroblob(2000000000)",
        "SELECT count(*) FROM cities a, cities b, cities c, cities d, cities e, cities f, cities g, cities h, "
        "cities i, cities j, cities k, cities l, cities m",
    ],
)
def test_what_never_ends_is_stopped(statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "STEP_LIMIT", 500_000)
    assert not same_result(statement, GOLD, SETUP)


def test_the_database_answers_again_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "STEP_LIMIT", 200_000)
    database = Database(SETUP)
    with pytest.raises(QueryFailed, match="interrupted"):
        database.query(FOREVER + "SELECT count(*) FROM n")
    assert len(database.query("SELECT * FROM cities")) == 4
    database.close()


def test_a_gold_query_that_breaks_is_not_the_answer_s_fault() -> None:
    with pytest.raises(QueryFailed):
        same_result("SELECT 1", "SELECT FROM", SETUP)


def test_the_first_fence_is_the_statement() -> None:
    assert statement_in(" SELECT 1 ") == "SELECT 1"
    assert statement_in("a\n```SQL\nSELECT 2\n```\n```sql\nSELECT 3\n```") == "SELECT 2"


def test_numbers_compare_by_value_and_text_does_not() -> None:
    assert same_rows([(1, 0.1 + 0.2)], [(1.0, 0.3)], ordered=True)
    assert not same_rows([("1",)], [(1,)], ordered=True)
    assert not same_rows([(2**60,)], [(2**60 + 1,)], ordered=True)
    assert not same_rows([(b"a",)], [("a",)], ordered=True)
    assert same_rows([(None,)], [(None,)], ordered=False)
    assert not same_rows([(None,)], [(0,)], ordered=False)


def test_nearly_equal_numbers_do_not_tear_rows_apart() -> None:
    third = 1 / 3
    found = [(third + 1e-16, "a"), (third, "b")]
    assert same_rows(found, [(third, "a"), (third + 1e-16, "b")], ordered=False)


cells = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from([1.5, -0.25]),
)
tables = st.integers(1, 3).flatmap(lambda width: st.lists(st.tuples(*[cells] * width), max_size=6))


@given(tables, st.randoms(use_true_random=False))
def test_a_shuffled_table_is_the_same_unordered(rows: list[sql.Row], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert same_rows(shuffled, rows, ordered=False)
    assert same_rows(shuffled, rows, ordered=True) == (shuffled == rows)


@given(tables, tables)
def test_unordered_equality_is_equality_of_multisets(one: list[sql.Row], other: list[sql.Row]) -> None:
    assert same_rows(one, other, ordered=False) == (Counter(one) == Counter(other))


SELECTS = st.builds(
    "SELECT {}{} FROM t{}{}{}".format,
    st.sampled_from(["", "DISTINCT "]),
    st.sampled_from(["a", "b", "a, b", "count(*)", "max(a)", "avg(a)", "sum(a), b"]),
    st.sampled_from(["", " WHERE a > 2", " WHERE b = 'x'", " WHERE a IS NULL"]),
    st.sampled_from(["", " GROUP BY b"]),
    st.sampled_from(["", " ORDER BY 1", " ORDER BY 1 DESC"]),
)
ROWS = st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 4)), st.sampled_from(["x", "y", "it's"])), max_size=6)


@given(SELECTS, SELECTS, ROWS)
def test_the_verdict_is_that_of_sqlite_itself(predicted: str, gold: str, rows: list[tuple[int | None, str]]) -> None:
    """The oracle runs both statements by hand and compares what comes back."""
    setup = "CREATE TABLE t (a INTEGER, b TEXT);" + "".join(
        "INSERT INTO t VALUES ({}, '{}');".format("NULL" if a is None else a, b.replace("'", "''")) for a, b in rows
    )
    connection = sqlite3.connect(":memory:")
    connection.executescript(setup)
    found, expected = connection.execute(predicted).fetchall(), connection.execute(gold).fetchall()
    connection.close()
    right = found == expected if "ORDER BY" in gold else Counter(found) == Counter(expected)
    assert same_result(predicted, gold, setup) == right
