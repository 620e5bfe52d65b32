"""A pattern that is let through compiles, and is quick on any name of a module."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafit.recipe.regexes import why_not

ATOMS = st.sampled_from(["a", "b", ".", r"\.", r"\w", r"\d", "[ab]", "[^.]", "q_proj", "(?:a|b)", "(a|ab)", "a?"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda branches: f"({'|'.join(branches)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{2,}", "{,3}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)
SLOWEST_SECONDS = 0.5  # of one name; the bad patterns take minutes to centuries


@pytest.mark.parametrize(
    "pattern",
    [
        r".*q_proj",
        r"model\.layers\.(1[0-9]|2[0-9])\..*\.(q|k|v|o)_proj",
        r"(?:model\.)?layers\.\d+\.mlp\.(gate|up|down)_proj",
        r".*layers\.[0-9]*[02468]\..*",
        r"(?P<layer>.+)\.(?!lm_head)[\w.]+",
        r"(ab){3}[)(*]\(\*",
        r"(a|b)*c",
        "a{,b}{x}",
    ],
)
def test_what_people_write_is_let_through(pattern: str) -> None:
    assert why_not(pattern) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+",
        "(a*)*b",
        "(a|a)*b",
        "(a|ab)+c",
        "(.|a)*b",
        r"(\w|q)+!",
        "(a?a){30}",
        "((ab*)c)+",
        "(?:x*){2,}",
        "(a{1,9}){1,9}",
        ".*" * 7,
    ],
)
def test_nested_repeats_are_refused(pattern: str) -> None:
    assert "may take forever" in str(why_not(pattern))


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a", "not a regular expression: missing )"),
        ("a)", "not a regular expression: unbalanced"),
        ("*a", "not a regular expression: nothing to repeat"),
        ("[[a]", "not a regular expression: Possible nested set"),
        ("a{99999999999}", "not a regular expression"),
        ("(" * 200 + ")" * 200, "groups nested more than 10 deep"),
        ("(" * 500, "groups nested more than 10 deep"),
    ],
)
def test_what_does_not_compile(pattern: str, reason: str) -> None:
    assert str(why_not(pattern)).startswith(reason)


@settings(max_examples=300, deadline=None)
@given(PATTERNS, st.text(st.sampled_from("ab.q_proj1"), max_size=6))
def test_what_is_let_through_is_quick(pattern: str, word: str) -> None:
    if why_not(pattern) is None:
        for name in ("a" * 40 + "!", (word * 40)[:40] + "!", "ab" * 20 + "!"):
            start = time.perf_counter()
            re.fullmatch(pattern, name)
            assert time.perf_counter() - start < SLOWEST_SECONDS


@given(st.text(st.sampled_from(r"ab()[]{}*+?|.\^,1:=!<>P-"), max_size=40))
def test_any_text_gets_an_answer(pattern: str) -> None:
    if why_not(pattern) is None:
        re.compile(pattern)
