"""Every key and value knows its place; what a recipe does not need of YAML is refused there."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.recipe.yaml_tree import MAX_DEPTH, MAX_NODES, Tree, parse_tree

TEXT = """\
# a comment
model:
    path: "x"   # another
'adapter': {rank: 8,
  target_modules: [q, v]}
data:
  train:
  - path: a
  -   path: b
"""
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**50), 10**50)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
KEYS = st.text(st.sampled_from('abc-_ é"\\:{😀'), max_size=9)
JSON_VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)


def said(text: str) -> list[str]:
    return [str(one.fault()) for one in parse_tree(text, "r.yaml").located]


def places(tree: Tree) -> dict[str, tuple[int, int]]:
    return {".".join(map(str, path)): (place.line, place.column) for path, place in tree.values.items() if path}


def test_values() -> None:
    assert parse_tree(TEXT, "r.yaml").value == {
        "model": {"path": "x"},
        "adapter": {"rank": 8, "target_modules": ["q", "v"]},
        "data": {"train": [{"path": "a"}, {"path": "b"}]},
    }


def test_places_of_values() -> None:
    assert places(parse_tree(TEXT, "r.yaml")) == {
        "model": (3, 5),
        "model.path": (3, 11),
        "adapter": (4, 12),
        "adapter.rank": (4, 19),
        "adapter.target_modules": (5, 19),
        "adapter.target_modules.0": (5, 20),
        "adapter.target_modules.1": (5, 23),
        "data": (7, 3),
        "data.train": (8, 3),
        "data.train.0": (8, 5),
        "data.train.0.path": (8, 11),
        "data.train.1": (9, 7),
        "data.train.1.path": (9, 13),
    }


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("model", "path"), (3, 5)),
        (("adapter",), (4, 1)),
        (("adapter", "target_modules"), (5, 3)),
        (("model", "missing"), (2, 1)),  # its block's
        (("missing",), (2, 1)),  # the recipe's first key
    ],
)
def test_places_of_keys(path: tuple[str, ...], place: tuple[int, int]) -> None:
    found = parse_tree(TEXT, "r.yaml").place(path, at_key=True)
    assert (found.line, found.column) == place


@given(
    st.dictionaries(st.text(max_size=9).filter(str.isprintable), JSON_VALUES, max_size=5), st.sampled_from([None, 2])
)
def test_json_reads_as_json_does(value: object, indent: int | None) -> None:
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
        tree = parse_tree(text, "r.json")
        if not any("in the text" in one.problem.what for one in tree.located):  # raw control characters
            assert (tree.value, tree.located) == (value, [])


def test_json_may_be_indented_by_tabs() -> None:
    assert parse_tree('{\n\t"a": 1,\n\t"b": [\n\t\t2]}', "r.json").value == {"a": 1, "b": [2]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "r.yaml:1:1: nothing is written here  [E2-EMPTY]"),
        ("# only\n", "r.yaml:1:1: nothing is written here  [E2-EMPTY]"),
        ("a: 1\nb: 2\na: 3", "r.yaml:3:1: a: the key appears twice, at lines 1 and 3; keep one  [E2-DUP]"),
        ("a: &x 1", 'r.yaml:1:4: a: anchors are not read; remove "&x"  [E2-YAML]'),
        ("a: *x", "r.yaml:1:4: a: aliases are not read; write the value out  [E2-YAML]"),
        ("*x", "r.yaml:1:1: aliases are not read; write the value out  [E2-YAML]"),
        ("a: !Foo 1", 'r.yaml:1:4: a: tags are not read; remove the tag "!Foo"  [E2-YAML]'),
        ("!!set {a}", 'r.yaml:1:1: tags are not read; remove the tag "tag:yaml.org,2002:set"  [E2-YAML]'),
        ("<<: {a: 1}", "r.yaml:1:1: <<: merge keys are not read; write the keys out  [E2-YAML]"),
        ("1: a", 'r.yaml:1:1: 1: a key must be text; write "1"  [E2-KEY]'),
        ("true: a", 'r.yaml:1:1: true: a key must be text; write "true"  [E2-KEY]'),
        ("? [a]\n: b", 'r.yaml:1:3: a key must be text; write "key: value"  [E2-YAML]'),
        ("a: 1\n---\nb: 2", 'r.yaml:2:1: a second document; remove the "---" line  [E2-YAML]'),
        ("%YAML 1.1\n---\na: 1", "r.yaml:1:1: a recipe is YAML 1.2; remove the %YAML line  [E2-YAML]"),
        ("a: 1\n\tb: 2", "r.yaml:2:1: a tab; indent with spaces  [E2-YAML]"),
        ("a:\xa01", "r.yaml:1:1: the value holds U+00A0 NO-BREAK SPACE; "
         "remove it, or put the value in quotes  [E2-VALUE]"),
        ("b: 1\na:\xa01", "r.yaml:2:3: U+00A0 NO-BREAK SPACE looks like a space; type a plain space  [E2-YAML]"),
        ("a: 1\x00", "r.yaml:1:5: U+0000 (a control character) in the text; remove it  [E2-YAML]"),
        ("a: 1\u2028", "r.yaml:1:5: U+2028 LINE SEPARATOR in the text; remove it  [E2-YAML]"),
        ("ra\u200bnk: 1", "r.yaml:1:1: ra\\u200bnk: the key holds U+200B ZERO WIDTH SPACE; remove it  [E2-KEY]"),
        ("a: b: c", 'r.yaml:1:5: a second ": " in one value, or a line that is indented too far; '
         "put the value in quotes, or line the key up with its neighbours  [E2-YAML]"),
        ("a: @b", "r.yaml:1:4: a value cannot start with this character; put the value in quotes  [E2-YAML]"),
        ('a: "b', "r.yaml:1:4: a quote that is never closed  [E2-YAML]"),
        ("a: [b", "r.yaml:1:4: a bracket that is never closed  [E2-YAML]"),
        ("a: [b c: d}", "r.yaml:1:11: a comma or a closing bracket is missing  [E2-YAML]"),
        ("a: 'b' c", "r.yaml:1:8: text after the end of a value; put the whole value in quotes  [E2-YAML]"),
        ("a: 1\n  b\nc", 'r.yaml:3:1: a line that is not "key: value"; put a space after the colon  [E2-YAML]'),
        ('a: "\\UFFFFFFFF"', "r.yaml:1:7: a number here is too large to read  [E2-YAML]"),
        ('a: "\\ud83d"', "r.yaml:1:4: a: half of a surrogate pair; remove the escape  [E2-VALUE]"),
        ('{"\\ud83d": 1}', "r.yaml:1:1: half of a surrogate pair; remove the escape  [E2-VALUE]"),
        (f"a: {'9' * 5000}", "r.yaml:1:4: a: a whole number of 5000 digits  [E2-VALUE]"),
    ],
)  # fmt: skip
def test_refusals(text: str, expected: str) -> None:
    assert said(text) == [expected]


def test_all_refusals_come_at_once() -> None:
    assert len(said("a: &x 1\nb: *x\nc: !t 2\na: 3\n<<: 4\n5: 6")) == 6


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "a:\n"])
@pytest.mark.parametrize("times", [MAX_DEPTH + 1, 3000, 60_000])
def test_depth_is_bounded(opening: str, times: int) -> None:
    text = "".join(" " * (level % 500) + opening for level in range(times)) if "\n" in opening else opening * times
    assert len(said(text)) == 1
    closed = {"[": "]", "{a: ": "}"}
    if opening in closed:
        assert not said(opening * MAX_DEPTH + "1" + closed[opening] * MAX_DEPTH)


def test_size_is_bounded() -> None:
    keys = (MAX_NODES - 1) // 2
    assert not said("".join(f"k{number}: 1\n" for number in range(keys)))
    assert "more than 10,000 keys and values" in said("".join(f"k{number}: 1\n" for number in range(keys + 1)))[0]


def test_an_alias_bomb_is_words() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True))
    assert parse_tree(bomb, "r.yaml").value == {"a": ["x", "x"]} | {n: [None, None] for n in "bcdefghi"}
