"""Write the golden files that tests compare with: `python -m scripts.record_golden [NAME ...]`.

A golden file changes only through here, and the commit that changes one says why.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import typer
from typer.core import TyperGroup

from lorafit import cli
from lorafit.recipe.resolved import schema_json

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


def recipe_schema() -> str:
    """Give the JSON Schema of a recipe: what users have written must stay valid."""
    return schema_json()


def commands() -> str:
    """Give the commands with their parameters: what users type must stay possible."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    context = typer.Context(group)
    visible = {name: command for name, command in group.commands.items() if not command.hidden}
    face = {
        name: {
            parameter.name: [*parameter.opts, *parameter.secondary_opts] for parameter in command.get_params(context)
        }
        for name, command in visible.items()
    }
    return json.dumps(face, indent=2) + "\n"


def preview() -> str:
    """Give the preview of the quickstart, without colours: what a person reads about the data."""
    from lorafit.recipe.load import load_recipe
    from lorafit.report.preview import look
    from lorafit.report.preview_text import lines

    recipe = load_recipe(GOLDEN.parents[1] / "recipes" / "quickstart.yaml", []).recipe
    prepared = look(recipe, 3)
    prepared.data.remarks.clear()  # on this time only: whether the cache had it
    return "".join(f"{line.plain}\n" for line in lines(prepared, full=False, coloured=False, width=100))


FILES: dict[str, Callable[[], str]] = {
    "recipe_schema.json": recipe_schema,
    "commands.json": commands,
    "preview.txt": preview,
}


def main(names: list[str]) -> None:
    """Record the files named, or all."""
    for name in names or FILES:
        (GOLDEN / name).write_text(FILES[name](), encoding="utf-8")
        print(f"recorded {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
