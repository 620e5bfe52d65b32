"""The recipe's fields by path, as its JSON Schema has them: what may stand where, and how to say it.

Messages, overrides and suggestions all read this outline, so that a new field or kind is described once.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from lorafit.recipe.problems import KeyPath, child_value
from lorafit.recipe.schema import DEFAULT_ADAPTER, Recipe

Node = Mapping[str, Any]

LISTED_KEYS = 8


@cache
def root() -> Node:
    """Give the schema of a checked recipe, where a shorthand is already written out."""
    return Recipe.model_json_schema(mode="serialization")


def options(node: Node) -> list[Node]:
    """Give what may stand here: the members of a union (without null), or the one type there is."""
    node = _resolved(node)
    members = node.get("anyOf") or node.get("oneOf") or [node]
    return [_resolved(member) for member in members if member.get("type") != "null"]


def kinds(node: Node) -> dict[str, Node]:
    """Give the variants of a block that is told apart by its `kind`; empty for any other."""
    only = options(node)[0] if len(options(node)) == 1 else _resolved(node)
    if "discriminator" not in only:
        return {}
    return {variant["properties"]["kind"]["const"]: variant for variant in map(_resolved, only["oneOf"])}


def option_for(node: Node, value: object) -> Node | None:
    """Give the option that is a block or a list, as the value is; None for a plain value.

    Where only a list may stand, one block stands for a list of one.
    """
    if variants := kinds(node):
        kind = value.get("kind", DEFAULT_ADAPTER) if isinstance(value, dict) else None
        return variants.get(kind) if isinstance(kind, str) else None
    shape = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else None
    items = options(child(node, 0, None)) if shape == "object" and takes_list(node) else []
    return next((option for option in [*options(node), *items] if option.get("type") == shape), None)


def fields(node: Node, value: object) -> dict[str, Node]:
    """Give the keys that a block may have; all variants' where its kind is not known."""
    variants = kinds(node)
    chosen = option_for(node, value)
    blocks = [chosen] if chosen else list(variants.values()) or options(node)
    return {key: child for block in blocks for key, child in block.get("properties", {}).items()}


def takes_list(node: Node) -> bool:
    """Say whether a list may stand here."""
    return any(option.get("type") == "array" for option in options(node))


def takes_only_text(node: Node) -> bool:
    """Say whether text (or null) is all that may stand here."""
    return all(option.get("type") == "string" for option in options(node))


def child(node: Node, part: str | int, value: object) -> Node:
    """Give the node of a key or of a list's item; an empty one where there is none."""
    if isinstance(part, int):
        lists = (option for option in options(node) if option.get("type") == "array")
        return next(lists, {}).get("items", {})  # type: ignore[no-any-return]
    return fields(node, value).get(part, _any_key(node))


def _any_key(node: Node) -> Node:
    """Give the node under each key of a block whose keys are the user's own; an empty one for any other."""
    open_blocks = (option.get("additionalProperties") for option in options(node))
    return next((values for values in open_blocks if isinstance(values, Mapping)), {})


def at(path: KeyPath, value: object) -> Node:
    """Give the node at a path of a recipe whose plain value is given; an empty one where there is none."""
    node = root()
    for part in path:
        node = child(node, part, value)
        value = child_value(value, part)
    return node


@cache
def every_key() -> tuple[tuple[str, KeyPath], ...]:
    """Give each key of the recipe with the path of the block that holds it."""
    return tuple(_keys_under(root(), ()))


def describe(node: Node) -> str:
    """Say what is expected here: `a number in (0, 1]`, `cosine or linear`, `a list of text`."""
    if variants := kinds(node):
        return f"a block with kind: {one_of(list(variants))}"
    return one_of([_describe_option(option) for option in options(node)])


def one_of(names: list[str]) -> str:
    """Join names as a sentence does."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _resolved(node: Node) -> Node:
    while "$ref" in node:
        node = root()["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _keys_under(node: Node, path: KeyPath) -> Iterator[tuple[str, KeyPath]]:
    for option in list(kinds(node).values()) or options(node):
        yield from _keys_under(option["items"], path) if "items" in option else ()
        for key, below in option.get("properties", {}).items():
            yield key, path
            yield from _keys_under(below, (*path, key))


def _describe_option(node: Node) -> str:
    if "const" in node or "enum" in node:
        return one_of([str(value) for value in node.get("enum", [node.get("const")])])
    match node.get("type"):
        case "integer":
            return _range("a whole number", node)
        case "number":
            return _range("a number", node)
        case "string":
            return _length("text", node)
        case "boolean":
            return "true or false"
        case "array":
            return _list(node)
        case _:
            return _block(node)


def _range(noun: str, node: Node) -> str:
    above = node.get("exclusiveMinimum")
    below = node.get("exclusiveMaximum")
    low = node.get("minimum", above)
    high = node.get("maximum", below)
    if node["type"] == "integer":  # an open end of whole numbers is better said as a closed one
        low, above = (low + 1, None) if above is not None else (low, None)
        high, below = (high - 1, None) if below is not None else (high, None)
    if low is not None and high is not None:
        left, right = "[" if above is None else "(", "]" if below is None else ")"
        return f"{noun} in {left}{_figure(low)}, {_figure(high)}{right}"
    if low is not None:
        return f"{noun} {'of at least' if above is None else 'above'} {_figure(low)}"
    return noun if high is None else f"{noun} {'of at most' if below is None else 'below'} {_figure(high)}"


def _figure(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(number)


def _length(noun: str, node: Node) -> str:
    least, most = node.get("minLength", 0), node.get("maxLength")
    return f"{noun} of {least} to {most} characters" if most else f"{noun}, not empty" if least else noun


def _list(node: Node) -> str:
    items = describe(node["items"]).replace("a block of", "blocks of")
    return f"a list of {items}" + (f", at least {node['minItems']}" if "minItems" in node else "")


def _block(node: Node) -> str:
    if values := _any_key(node):
        return f"a block of keys, each with {describe(values)}"
    keys = list(node.get("properties", {}))
    return f"a block of keys ({', '.join(keys[:LISTED_KEYS])}{', ...' if len(keys) > LISTED_KEYS else ''})"
