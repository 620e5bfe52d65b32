"""The recipe with every default filled in, as text that is equal for equal recipes, and its JSON Schema."""

import hashlib
import json
from typing import Any

from lorafit.recipe.load import recipe_from
from lorafit.recipe.schema import DEFAULT_ADAPTER, Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def canonical_json(recipe: Recipe) -> str:
    """Give the whole recipe as JSON: keys sorted, floats in the shortest form that reads back equal."""
    return _text(recipe.model_dump(mode="json"), sort_keys=True)


def recipe_hash(recipe: Recipe) -> str:
    """Give the SHA-256 (hexadecimal) of what the run computes: everything but `output`."""
    return hashlib.sha256(
        _text(recipe.model_dump(mode="json", exclude={"output"}), sort_keys=True).encode()
    ).hexdigest()


def recipe_from_resolved(text: str) -> Recipe:
    """Read what `canonical_json` wrote. RecipeError when someone changed it into something else.

    It was checked before it was written; where it may write depends on the current folder, and is not asked.
    """
    return recipe_from(text.encode(), "recipe.resolved.json", checks=())


def schema_json() -> str:
    """Give the JSON Schema of what a user may write, shorthands included, for completion in an editor."""
    schema = Recipe.model_json_schema(mode="validation")
    schema["$defs"] = {name: _kind_required(definition) for name, definition in schema["$defs"].items()}
    return _text({"$schema": DIALECT, "title": "lorafit recipe"} | _without_openapi(schema), sort_keys=False)


def _text(value: object, *, sort_keys: bool) -> str:
    return json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False) + "\n"


def _kind_required(definition: dict[str, Any]) -> dict[str, Any]:
    """Make `kind` tell the variants apart, but for the one that may go without."""
    kind = definition.get("properties", {}).get("kind", {}).get("const")
    if kind in (None, DEFAULT_ADAPTER):
        return definition
    return definition | {"required": sorted({"kind", *definition.get("required", [])})}


def _without_openapi(node: Any) -> Any:
    """Leave out `discriminator`, a word of OpenAPI that JSON Schema does not know."""
    if isinstance(node, dict):
        return {key: _without_openapi(value) for key, value in node.items() if key != "discriminator"}
    return [_without_openapi(item) for item in node] if isinstance(node, list) else node
