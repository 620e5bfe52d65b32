"""Plain words mean what YAML 1.2 says, and floats are Python's floats."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.recipe.scalars import MAX_DIGITS, plain_scalar


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("2e-4", 0.0002),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0.0", -0.0),
        ("+12", 12),
        ("0123", 123),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("Null", None),
    ],
)
def test_core_schema(word: str, value: object) -> None:
    read = plain_scalar(word)
    assert (type(read), read) == (type(value), value)


SURPRISES = """no yes on off y n 12:30:45 2024-01-01 1_000 0b1 017o 0o8 0xg 1e 1e+ e5 . + - nan inf tRUE nULL ½ ١٢"""


@pytest.mark.parametrize("word", [*SURPRISES.split(), "1\n", " 1"])
def test_the_surprises_of_yaml_1_1_are_text(word: str) -> None:
    assert plain_scalar(word) == word


@pytest.mark.parametrize(("word", "value"), [(".inf", math.inf), ("-.Inf", -math.inf), ("+.INF", math.inf)])
def test_infinity(word: str, value: float) -> None:
    assert plain_scalar(word) == value


def test_not_a_number() -> None:
    number = plain_scalar(".nan")
    assert isinstance(number, float)
    assert math.isnan(number)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_pythons(number: float) -> None:
    assert plain_scalar(repr(number)) == number
    assert plain_scalar(f"{number:.17E}") == number


@given(st.integers(-(10 ** (MAX_DIGITS - 2)), 10 ** (MAX_DIGITS - 2)))
def test_ints_are_pythons(number: int) -> None:
    assert plain_scalar(str(number)) == number


@pytest.mark.parametrize("word", ["9" * 5000, "0x" + "f" * 5000, "-" + "1" * MAX_DIGITS])
def test_endless_ints_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="digits"):
        plain_scalar(word)
