"""JSON as the standard has it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.data.strict_json import MAX_DEPTH, parse
from lorafit.recipe.formats import RowFault


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E3-ROW-JSON"),
        ("{", "E3-ROW-JSON"),
        ('{"a": 1,}', "E3-ROW-JSON"),
        ("{'a': 1}", "E3-ROW-JSON"),
        ('{"a": 1} x', "E3-ROW-JSON"),
        ('{"a": 01}', "E3-ROW-JSON"),
        ('"\x01"', "E3-ROW-JSON"),
        ('{"a": 1, "a": 2}', "E3-ROW-DUPLICATE-KEY"),
        ('{"b": {"a": 1, "a": 1}}', "E3-ROW-DUPLICATE-KEY"),
        ("NaN", "E3-ROW-NAN"),
        ('{"a": -Infinity}', "E3-ROW-NAN"),
        ("1e999", "E3-ROW-NUMBER"),
        ("9" * 5000, "E3-ROW-NUMBER"),
        ('"\\ud800"', "E3-ROW-SURROGATE"),
        ('{"\\udfff": 1}', "E3-ROW-SURROGATE"),
        ("[" * 2000 + "]" * 2000, "E3-ROW-DEPTH"),
        ("[" * 100_000, "E3-ROW-DEPTH"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "E3-ROW-DEPTH"),
    ],
)
def test_refused(text: str, code: str) -> None:
    with pytest.raises(RowFault) as caught:
        parse(text)
    assert caught.value.code == code


def test_kept_exactly() -> None:
    assert parse('{"n": 1234567890123456789012345678901234567890}') == {"n": 1234567890123456789012345678901234567890}
    assert parse('"\\ud83d\\ude00"') == "😀"
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.booleans(),
)
def test_whatever_the_standard_writes_is_read_back(value: Any, ascii_only: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only)) == value
