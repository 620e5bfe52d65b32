"""Write docs/reference from the code: keys of the recipe, help of the commands, exit codes.

With --check nothing is written, and the exit code is 1 when a page is not what the code says.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from lorafit import cli
from lorafit.errors import LorafitError
from lorafit.recipe.schema import Recipe

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
GENERATED = "<!-- Written by scripts/gen_reference.py (`make docs`); change the code instead. -->\n"
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
Schema = dict[str, Any]
LEAST = {"version": 1, "model": {"path": "a"}, "data": {"train": {"path": "b"}}}
EXIT_CODES = """\
# Exit codes

| code | name | what it means |
|---|---|---|
| 0 | | Finished and verified. |
| 1 | | A bug in lorafit: the only case that prints a traceback. |
{rows}
| 130, 143 | | Forced by a second interrupt or termination signal; the last checkpoint is intact. |

A message says where (file:line:column, or row), what was expected and found, how to mend it, and a code in
brackets; all faults that could be found are listed at once. With `--json` the same facts are one object on
standard output:
`{{"error": {{"exit_code", "faults": [{{"code", "what", "where", "fix"}}]}}}}`.
"""


def recipe_page() -> str:
    """Describe every key of the recipe: what it accepts, default, meaning."""
    schema = Recipe.model_json_schema()
    blocks = schema["$defs"]
    least = Recipe.model_validate(LEAST)
    text = [
        f"# Recipe\n\n{schema['description']} Keys marked * are required.",
        f"Left out, `adapter` is of kind `{least.adapter.kind}` and `quantization` of kind "
        f"`{least.quantization.kind}`.\n",
        table(schema, blocks),
    ]
    for key, field in schema["properties"].items():
        for name in block_names(field):
            text += block(key, blocks[name], blocks)
    return "\n".join(text)


def block(key: str, schema: Schema, blocks: Schema) -> Iterator[str]:
    """Yield the heading, the sentence and the table of one block, and then of the blocks inside it."""
    kind = schema["properties"].get("kind", {}).get("const")
    yield f"## `{key}`" + (f", kind `{kind}`" if kind else "") + "\n"
    yield schema["description"] + "\n"
    yield table(schema, blocks)
    for inner, field in schema["properties"].items():
        for name in block_names(field):
            if len(blocks[name]["properties"]) > 1:
                yield from block(f"{key}.{inner}", blocks[name], blocks)


def block_names(field: Schema) -> list[str]:
    """List the blocks that a field may hold."""
    options = [field, field.get("items", {}), *field.get("oneOf", []), *field.get("anyOf", [])]
    return [option["$ref"].rpartition("/")[2] for option in options if "$ref" in option]


def table(schema: Schema, blocks: Schema) -> str:
    """Lay out the keys of a block."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = schema.get("required", [])
    for key, field in sorted(schema["properties"].items(), key=lambda item: item[0] != "kind"):
        name = f"`{key}`" + (" *" if key in required else "")
        rows.append(f"| {name} | {value(field, blocks)} | {default(field)} | {meaning(field, blocks)} |")
    return "\n".join(rows) + "\n"


def value(field: Schema, blocks: Schema) -> str:
    """Say what a key accepts."""
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{word}`" for word in field["enum"])
    if "discriminator" in field:
        kinds = [blocks[name]["properties"]["kind"]["const"] for name in block_names(field)]
        return "block, by `kind`: " + ", ".join(f"`{kind}`" for kind in kinds)
    if "$ref" in field:
        properties = blocks[field["$ref"].rpartition("/")[2]]["properties"]
        return "block" if len(properties) > 1 else f"`{{{next(iter(properties))}: ...}}`"
    if options := field.get("anyOf") or field.get("oneOf"):
        return ", or ".join(dict.fromkeys(value(option, blocks) for option in options))
    if field["type"] == "array":
        return f"list of {value(field['items'], blocks)}"
    limits = [f"{sign} {field[bound]:,}" for bound, sign in BOUNDS.items() if bound in field]
    return " ".join([field["type"].replace("string", "text"), ", ".join(limits)]).strip()


def default(field: Schema) -> str:
    """Show the default as YAML writes it, where it is one value."""
    if "default" not in field or isinstance(field["default"], dict):
        return ""
    shown = {None: "null", True: "true", False: "false"}
    found = field["default"]
    return f"`{shown[found] if found is None or isinstance(found, bool) else found}`"


def meaning(field: Schema, blocks: Schema) -> str:
    """Give the field's own description, or that of the block it holds."""
    names = block_names(field)
    text: str = field.get("description") or (blocks[names[0]]["description"] if names else "")
    return text.replace("|", "\\|")


def commands_page() -> str:
    """Show the help of every command, as a terminal of 100 columns prints it."""
    overview = help_of()
    names = re.findall(r"^  ([a-z-]+) {2,}", overview.partition("Commands:")[2], re.MULTILINE)
    sections = [f"## {name}\n\n```text\n{help_of(name)}```\n" for name in names]
    return "\n".join(["# Commands\n", f"```text\n{overview}```\n", *sections])


def help_of(*command: str) -> str:
    """Run `lorafit COMMAND --help` in this process."""
    arguments = [*command, "--help"]
    result = CliRunner().invoke(cli.app, arguments, prog_name="lorafit", terminal_width=100)
    if result.exit_code:
        raise RuntimeError(f"lorafit {' '.join(arguments)}: {result.output}")
    return result.output.strip() + "\n"


def exit_codes_page() -> str:
    """List the leaves of the error tree."""
    leaves = sorted(LorafitError.__subclasses__(), key=lambda leaf: leaf.exit_code)
    rows = "\n".join(f"| {leaf.exit_code} | `{leaf.__name__}` | {leaf.__doc__} |" for leaf in leaves)
    return EXIT_CODES.format(rows=rows)


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them; give the exit code."""
    pages = {"recipe": recipe_page(), "cli": commands_page(), "exit-codes": exit_codes_page()}
    files = {REFERENCE / f"{name}.md": GENERATED + text for name, text in pages.items()}
    stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" not in arguments:
        REFERENCE.mkdir(parents=True, exist_ok=True)
        for path in stale:
            path.write_text(files[path], "utf-8")
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)} is stale: run `make docs`", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
