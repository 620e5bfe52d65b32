"""Any recipe at all is either read, or refused in at most 20 plain lines; a good one survives every round trip."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorafit.errors import SHOWN_LINES, LorafitError
from lorafit.recipe import outline
from lorafit.recipe.load import recipe_from
from lorafit.recipe.resolved import canonical_json, recipe_from_resolved, recipe_hash
from lorafit.recipe.schema import Recipe

SEEDS = [path.read_bytes() for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))]
SPLICES = [
    *(b"\t", b"\0", b"\xff", b": ", b"- ", b"&a ", b"*a", b"!!x ", b"<<: ", b"{", b"[", b"]", b"}", b'"', b"'", b"#"),
    *(b"\n", b"\r", b"\n---\n", b"%YAML 1.1\n", b"? ", b"| ", b"> ", b"9" * 5000, b".nan", b"\\U00110000", b"null"),
    *(b"\xc2\xa0", b"\xe2\x80\x8b", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"kind: ", b"path: ", b"adapter:\n"),
]

everyday = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
nightly = settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# ------------------------------------------------------------ good recipes, from the schema itself


def values(node: outline.Node) -> st.SearchStrategy[Any]:
    """Draw what the schema allows at a node; `null` too, where it does."""
    members = node.get("anyOf", [])
    nothing = [st.none()] if any(member.get("type") == "null" for member in members) else []
    variants = list(outline.kinds(node).values()) or outline.options(node)
    return st.one_of(*nothing, *map(plain_values, variants))


def plain_values(node: outline.Node) -> st.SearchStrategy[Any]:
    if "const" in node or "enum" in node:
        return st.sampled_from(node.get("enum", [node.get("const")]))
    match node["type"]:
        case "integer":
            return integers(node)
        case "number":
            return numbers(node) | integers(node).map(float)
        case "string":
            return st.text(st.sampled_from("ab .:/-#'\"é1\\"), min_size=node.get("minLength", 0), max_size=12)
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(values(node["items"]), min_size=node.get("minItems", 0), max_size=3)
        case _:
            return blocks(node)


def integers(node: outline.Node) -> st.SearchStrategy[int]:
    low = node.get("minimum", node.get("exclusiveMinimum", -1) + 1)
    high = node.get("maximum", node.get("exclusiveMaximum", 10**9 + 1) - 1)
    return st.integers(int(low), max(int(high), int(low))) if low <= high else st.nothing()


def numbers(node: outline.Node) -> st.SearchStrategy[float]:
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    low, high = node.get("minimum", above), node.get("maximum", below)
    return st.floats(
        low, high, exclude_min=above is not None, exclude_max=below is not None, allow_nan=False, allow_infinity=False
    )


def blocks(node: outline.Node) -> st.SearchStrategy[dict[str, Any]]:
    required = {"version", "model", "data", "path", "train", "regex", "kind"}  # `path` in validation: see repaired
    if "properties" not in node:  # free keys: which are known is the format's to say
        return st.just({})
    fields = {key: values(below) for key, below in node["properties"].items()}
    return st.fixed_dictionaries(
        {key: drawn for key, drawn in fields.items() if key in required},
        optional={key: drawn for key, drawn in fields.items() if key not in required},
    )


def repaired(recipe: dict[str, Any]) -> dict[str, Any]:
    """Keep the rules that tie values together, which the schema cannot say."""
    training = recipe.get("training", {})
    if training.get("max_steps") is not None:
        training.pop("epochs", None)
        training["warmup"] = min(training.get("warmup", 0), training["max_steps"] - 1, 0.5)
    if training.get("micro_batch_size", "auto") != "auto":
        training["global_batch_size"] = training["micro_batch_size"]
    validation = recipe["data"].get("validation")
    if validation is not None and validation.get("path") is not None:
        validation.pop("fraction", None)
    elif validation is not None:
        recipe["data"]["validation"] = {"fraction": validation.get("fraction") or 0.1}
    if recipe["data"].get("validation") is None or training.get("eval_every") is None:
        training |= {"early_stopping": None, "eval_every": None}
    if recipe["model"].get("dtype") == "float16":
        recipe["model"]["dtype"] = "bfloat16"
    if recipe.get("adapter", {}).get("kind") == "full":
        recipe.pop("quantization", None)
    if (
        recipe.get("adapter", {}).get("kind") in ("full", "dora")
        or recipe.get("quantization", {}).get("kind") == "int8"
    ):
        training.pop("sharding", None)
    if isinstance(targets := recipe.get("adapter", {}).get("target_modules"), dict):
        targets["regex"] = ".*" + targets["regex"].replace("\\", "").strip("?*+")
    output = recipe.setdefault("output", {})
    output["dir"] = "runs/" + (output.get("dir") or "x").replace("..", "-")
    return recipe


RECIPES = values(outline.root()).map(repaired)


def block_yaml(value: Any, indent: str = "") -> str:
    """Write as people do: blocks by indentation, plain numbers and words, quotes where they are needed."""
    if isinstance(value, dict) and value:
        return "".join(f"\n{indent}{key}: {block_yaml(below, indent + '  ')}" for key, below in value.items())
    if isinstance(value, list) and value:
        return "".join(f"\n{indent}- {block_yaml(item, indent + '  ').lstrip()}" for item in value)
    return json.dumps(value, ensure_ascii=False)


@everyday
@given(RECIPES)
def test_a_good_recipe_survives_every_round_trip(drawn: dict[str, Any]) -> None:
    recipe = recipe_from(block_yaml(drawn).encode(), "recipe.yaml")
    assert recipe_from(json.dumps(drawn).encode(), "recipe.json") == recipe
    assert Recipe.model_validate(drawn) == recipe
    resolved = canonical_json(recipe)
    again = recipe_from_resolved(resolved)
    assert (again, canonical_json(again), recipe_hash(again)) == (recipe, resolved, recipe_hash(recipe))


# ------------------------------------------------------------ bad ones


def check_answer(content: bytes, *overrides: str) -> None:
    """A recipe, or one error that a person can read; nothing else is raised."""
    try:
        recipe = recipe_from(content, "recipe.yaml", overrides)
    except LorafitError as error:
        refusal = error
    else:
        assert recipe_from_resolved(canonical_json(recipe)) == recipe
        return
    lines = str(refusal).split("\n")
    assert refusal.exit_code in (2, 12)
    assert 1 <= len(lines) <= SHOWN_LINES
    assert all(line.isprintable() and len(line) < 1000 for line in lines)
    assert all(fault.what for fault in refusal.faults)


@st.composite
def mutated_bytes(draw: st.DrawFn) -> bytes:
    """Flip, cut, insert and splice the bytes of a good recipe."""
    content = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 0, 1, 2, 9, 200])))
        filling = draw(st.one_of(st.sampled_from(SPLICES), st.binary(max_size=4), st.sampled_from(SEEDS)))
        content = content[:start] + filling + content[end:]
    return content


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("x" * 9999),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = sorted({key for key, _ in outline.every_key()})


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """A good recipe with some of its values replaced, added, moved or taken out."""
    recipe = draw(RECIPES)
    for _ in range(draw(st.integers(1, 5))):
        block = recipe
        while (below := [v for v in block.values() if isinstance(v, dict) and v]) and draw(st.booleans()):
            block = draw(st.sampled_from(below))
        key = draw(st.sampled_from(KEYS) | st.sampled_from(sorted(map(str, block))) | st.text(max_size=6))
        if draw(st.booleans()) and len(block) > 1:
            block.pop(key, None)
        else:
            block[key] = draw(JUNK)
    return recipe


@everyday
@given(mutated_bytes())
def test_mutated_bytes_are_answered(content: bytes) -> None:
    check_answer(content)


@everyday
@given(spoiled())
def test_spoiled_recipes_are_answered(recipe: dict[str, Any]) -> None:
    check_answer(json.dumps(recipe).encode())


@everyday
@given(
    st.sampled_from(SEEDS),
    st.lists(
        st.tuples(st.lists(st.sampled_from([*KEYS, "0", "1", "x", ""]), max_size=4), JUNK | st.text()), max_size=3
    ),
)
def test_any_override_is_answered(content: bytes, changes: list[tuple[list[str], Any]]) -> None:
    check_answer(content, *(f"{'.'.join(path)}={json.dumps(value)}" for path, value in changes))


@everyday
@given(st.text(max_size=200) | st.text(st.sampled_from("ab:-?[]{}&*!|>'\"%@#,\n \t"), max_size=80))
def test_any_text_is_answered(text: str) -> None:
    check_answer(text.encode("utf-8", "surrogatepass"))
    check_answer(SEEDS[0], text.encode("utf-8", "replace").decode())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@nightly
@given(mutated_bytes())
def test_ten_thousand_mutated_recipes_are_answered(content: bytes) -> None:
    check_answer(content)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@nightly
@given(spoiled())
def test_ten_thousand_spoiled_recipes_are_answered(recipe: dict[str, Any]) -> None:
    check_answer(json.dumps(recipe).encode())
