"""Pydantic's verdict on a recipe -> problems: where, what was expected and found, what was perhaps meant."""

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lorafit.recipe import outline
from lorafit.recipe.outline import Node
from lorafit.recipe.problems import KeyPath, Problem, child_value, printable, shown, value_at
from lorafit.recipe.scalars import plain_scalar
from lorafit.recipe.suggest import WORDS_ELSEWHERE, did_you_mean, for_key, nearest

SUGGESTIONS = 100  # looking for the nearest key takes a millisecond, and no one reads so many

_LIKE_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


class _Spot(NamedTuple):
    """Where pydantic points, what is expected there, and what stands there."""

    path: KeyPath
    node: Node
    value: object


def problems_of(error: ValidationError, recipe: object) -> Iterator[Problem]:
    """Give a problem for all that pydantic found in the recipe, but for branches of a union not meant."""
    for number, detail in enumerate(error.errors(include_url=False, include_input=False)):
        spot = _spot(detail["loc"], recipe)
        if spot and detail["type"] == "extra_forbidden":
            yield _unknown_key(spot.path, recipe, suggest=number < SUGGESTIONS)
        elif spot:
            yield _problem(detail, spot)


def _spot(location: tuple[str | int, ...], recipe: object) -> _Spot | None:
    """Translate pydantic's location, which also names the branches of unions; None for a branch not meant."""
    spot = _Spot((), outline.root(), recipe)
    for part in location:
        if part in (variants := outline.kinds(spot.node)):
            spot = spot._replace(node=variants[str(part)])
        elif len(outline.options(spot.node)) > 1:
            meant = outline.option_for(spot.node, spot.value)
            if meant is None:
                break  # a plain value: whatever the branch, the fault lies here
            if not _labels(str(part), meant):
                return None
            spot = spot._replace(node=meant)
        elif isinstance(part, int) and not isinstance(spot.value, list):
            # one block stands for a list of one
            spot = spot._replace(node=outline.child(spot.node, part, None))
        else:
            node = outline.child(spot.node, part, spot.value)
            spot = _Spot((*spot.path, part), node, child_value(spot.value, part))
    return spot


def _labels(label: str, option: Node) -> bool:
    """Say whether this is pydantic's name for a branch of a union."""
    if option["type"] == "array":
        return label.startswith(("list[", "constrained-list"))
    return bool(label == option["title"])


def _problem(detail: ErrorDetails, spot: _Spot) -> Problem:
    match detail["type"]:
        case "missing":
            what = spot.node.get("description") or f"expected {outline.describe(spot.node)}"
            return Problem(spot.path, f"a required key is missing: {what}", "", "E2-MISSING", at_key=True)
        case "union_tag_invalid" | "union_tag_not_found":
            return _wrong_kind(spot)
        case "rule":
            at = KeyPath(detail["ctx"]["at"].split("."))
            return Problem((*spot.path, *at), detail["msg"], "", "E2-RULE")
        case "value_error":
            return Problem(spot.path, detail["msg"].removeprefix("Value error, "), "", "E2-RULE", at_key=True)
        case _:
            what = f"expected {outline.describe(spot.node)}, got {shown(spot.value)}"
            return Problem(spot.path, what, _hint(spot.node, spot.value))


def _unknown_key(path: KeyPath, recipe: object, *, suggest: bool) -> Problem:
    key, block = str(path[-1]), path[:-1]
    fix = for_key(key, block, outline.at(block, recipe), value_at(block, recipe)) if suggest else ""
    return Problem(path, "unknown key", fix, "E2-KEY", at_key=True)


def _wrong_kind(spot: _Spot) -> Problem:
    known = list(outline.kinds(spot.node))
    kind = child_value(spot.value, "kind")
    close = nearest(kind, known) if isinstance(kind, str) else None
    what = f"expected {outline.one_of(known)}, got {shown(kind)}"
    return Problem((*spot.path, "kind"), what, did_you_mean(close), "E2-KIND")


def _hint(node: Node, value: object) -> str:
    """Say how to write what was probably meant, where that can be told."""
    match value:
        case str():
            return _hint_for_word(value, node)
        case None if any(option.get("type") == "object" for option in outline.options(node)):
            return "leave the key out to have the defaults"
        case bool() | int() | float() if outline.takes_only_text(node):
            return f'write "{shown(value)}" in quotes'
        case _:
            return ""


def _hint_for_word(word: str, node: Node) -> str:
    types = {option.get("type") for option in outline.options(node)}
    if types & {"integer", "number"} and (number := _as_number(word)) is not None:
        return f"write {number}"
    if "boolean" in types and (meant := _LIKE_BOOLEANS.get(word.lower(), word.lower())) in ("true", "false"):
        return f"write {meant}"
    if word in (variants := outline.kinds(node)):
        return f"write {{kind: {word}}}"
    if types == {"array"} and "path" in outline.fields(outline.child(node, 0, None), {}):
        return "write it under the key path"
    if types == {"object"} and "path" in outline.fields(node, {}):
        return f"write {{path: {printable(word)}}}"
    words = [str(each) for option in outline.options(node) for each in option.get("enum", [])]
    if (known := WORDS_ELSEWHERE.get(word.lower(), "")) in words:
        return f"lorafit calls it {known}"
    return did_you_mean(nearest(word, words or variants))


def _as_number(word: str) -> int | float | None:
    try:
        number = plain_scalar(word.strip().replace("_", "").replace(",", ""))
    except ValueError:
        return None
    return number if isinstance(number, int | float) and not isinstance(number, bool) else None
