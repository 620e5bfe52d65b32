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


FILES: dict[str, Callable[[], str]] = {
    "recipe_schema.json": recipe_schema,
    "commands.json": commands,
}


def main(names: list[str]) -> None:
    """Record the files named, or all."""
    for name in names or FILES:
        (GOLDEN / name).write_text(FILES[name](), encoding="utf-8")
        print(f"recorded {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
