"""What the docs tell a reader to type exists: commands, options, recipes, make targets, files."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorafit import cli
from lorafit.recipe.load import recipe_from

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "Makefile",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/guides").glob("*.md")),
    *sorted((ROOT / "docs/concepts").glob("*.md")),
    *sorted((ROOT / "recipes").glob("*.yaml")),
]
COMMAND = re.compile(r"(?:^|`)[#\s]*(?:\$\(BIN\)/|\.venv/bin/)?lorafit ([a-z][^`#\n]*)", re.MULTILINE)
TARGET = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def help_of(command: str) -> str:
    """What `lorafit COMMAND --help` prints; a command that does not exist fails."""
    result = CliRunner().invoke(cli.app, [command, "--help"], prog_name="lorafit", terminal_width=200)
    assert result.exit_code == 0, f"lorafit {command}: {result.output}"
    return result.output


def test_commands_are_found() -> None:
    """The pattern itself, or every test below would pass on nothing."""
    assert COMMAND.findall("text\n    lorafit train a.yaml  # note\n`lorafit merge RUN`") == [
        "train a.yaml  ",
        "merge RUN",
    ]
    assert sum(len(COMMAND.findall(page.read_text())) for page in PAGES) > 50


@every_page
def test_commands_and_options_exist(page: Path) -> None:
    for line in COMMAND.findall(page.read_text()):
        command, *arguments = shlex.split(line.replace("\\|", "|"))
        options = re.findall(r"^ +(--[a-z-]+)", help_of(command), re.MULTILINE)
        assert [word for word in arguments if word.startswith("--") and word not in options] == [], line


@every_page
def test_recipes_exist(page: Path) -> None:
    for name in re.findall(r"recipes/[\w./-]+\.yaml", page.read_text()):
        assert (ROOT / name).exists(), name


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(TARGET.findall(page.read_text())) <= set(targets)


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
RECIPES = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, text in enumerate(BLOCK.findall(page.read_text()))
    if re.search(r"^version:", text, re.MULTILINE)
]


def test_recipes_in_the_docs_are_found() -> None:
    assert RECIPES


@pytest.mark.parametrize("text", RECIPES)
def test_recipes_in_the_docs_are_valid(text: str) -> None:
    recipe_from(text.encode(), "a recipe of the docs")
