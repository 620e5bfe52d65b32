"""What an answer is worth, and what is said of rows that cannot be scored."""

import json
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.errors import DataError, NumericalError, RecipeError
from lorafit.evaluate.metrics import (
    ANSWER_METRICS,
    Gold,
    bits_per_byte,
    check_names,
    check_references,
    last_number_in,
    perplexity,
)


def score(metric: str, answer: str, reference: str, **fields: object) -> float:
    return ANSWER_METRICS[metric]([answer], [Gold("rows.jsonl:1", reference, fields)])


def test_exact_match_leaves_white_space_at_the_ends_aside() -> None:
    assert score("exact_match", " Paris\n", "Paris") == 1.0
    assert score("exact_match", "paris", "Paris") == 0.0
    assert score("exact_match", "Paris.", "Paris") == 0.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 42", "42"),
        ("so 3 + 4 = 7.", "7"),
        ("$1,234,567.50!", "1234567.50"),
        ("it fell to -3.5 degrees", "-3.5"),
        ("5-3", "3"),
        ("(2)-1", "1"),
        ("from 1,2", "2"),
        ("1,2345", "2345"),
        ("v2 has 10 parts", "10"),
        ("10 apples (not 1e3x)", "3"),
        ("a = .5", "5"),
        ("١٢", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number_of_a_text(text: str, number: str | None) -> None:
    assert last_number_in(text) == (None if number is None else Decimal(number))


def test_last_number_compares_values() -> None:
    assert score("last_number", "The answer is 1,000.0 dollars.", "work\n#### 1000") == 1.0
    assert score("last_number", "The answer is 1000 or 999", "#### 1000") == 0.0
    assert score("last_number", "I do not know", "#### 1000") == 0.0


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_every_number_is_read_back_from_prose(number: Decimal) -> None:
    assert last_number_in(f"It is {number:,f} in all.") == number


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(json_values)
def test_whatever_json_writes_is_valid(value: object) -> None:
    assert score("json_valid", json.dumps(value), "") == 1.0


@pytest.mark.parametrize(
    "answer",
    ["", "{a: 1}", "{'a': 1}", "[1,]", "NaN", "[Infinity]", "1 2", "```json\n{}\n```", "[" * 100_000, "01"],
)
def test_what_is_not_quite_json_is_not_valid(answer: str) -> None:
    assert score("json_valid", answer, "") == 0.0


def test_a_huge_integer_is_json() -> None:
    assert score("json_valid", "9" * 5000, "") == 1.0


def test_sql_execution_runs_on_the_row_s_own_tables() -> None:
    setup = "CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1), (2)"
    assert score("sql_execution", "SELECT sum(a) FROM t", "SELECT 3", setup_sql=setup) == 1.0
    assert score("sql_execution", "SELECT max(a) FROM t", "SELECT 3", setup_sql=setup) == 0.0
    assert score("sql_execution", "I cannot say", "SELECT 3", setup_sql=setup) == 0.0


def test_scores_of_a_set_are_means() -> None:
    golds = [Gold(f"rows.jsonl:{line}", text, {}) for line, text in enumerate(["a", "b", "c", "d"], 1)]
    assert ANSWER_METRICS["exact_match"](["a", "b", "x", "y"], golds) == 0.5
    assert ANSWER_METRICS["bleu"](["a", "b", "c", "d"], golds) == 0.0


def test_unknown_metrics_are_named_all_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        check_names(["loss", "exactness", "exact_match", "pass_at_1"])
    assert [fault.what.split("'")[1] for fault in caught.value.faults] == ["exactness", "pass_at_1"]


def test_gold_answers_are_checked_before_the_model_is_asked() -> None:
    golds = [
        Gold("rows.jsonl:1", "SELECT 1", {"setup_sql": "CREATE TABLE t (a)"}),
        Gold("rows.jsonl:2", "SELECT", {"setup_sql": "CREATE TABLE t (a)"}),
        Gold("rows.jsonl:3", "SELECT 1", {}),
        Gold("rows.jsonl:4", "SELECT 1", {"setup_sql": "CREATE TABLE"}),
        Gold("rows.jsonl:5", "INSERT INTO t VALUES (1)", {"setup_sql": "CREATE TABLE t (a)"}),
    ]
    with pytest.raises(DataError) as caught:
        check_references("sql_execution", golds)
    assert [fault.where for fault in caught.value.faults] == [f"rows.jsonl:{line}" for line in (2, 3, 4, 5)]
    check_references("sql_execution", golds[:1])
    check_references("exact_match", golds)


def test_every_bad_row_is_reported() -> None:
    golds = [Gold(f"rows.jsonl:{line}", "no number", {}) for line in range(1, 101)]
    with pytest.raises(DataError) as caught:
        check_references("last_number", golds)
    assert len(caught.value.faults) == 100


@given(st.floats(0, 20), st.integers(1, 10**6))
def test_perplexity_and_bits_follow_from_nats(loss: float, tokens: int) -> None:
    assert perplexity(loss * tokens, tokens) == pytest.approx(math.exp(loss))
    assert bits_per_byte(loss * tokens, 2 * tokens) == pytest.approx(loss / math.log(2) / 2)


@pytest.mark.parametrize("nats", [math.nan, math.inf, 1e6])
def test_a_loss_that_is_no_number_is_an_error_and_not_a_score(nats: float) -> None:
    with pytest.raises(NumericalError):
        perplexity(nats, 10)
