"""Every recipe that ships is a taught example: it validates, it plans, and it is short enough to read."""

import json
from pathlib import Path

import pytest

from lorafit.cli import main
from lorafit.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
LONGEST_LINES = 60

every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def lorafit(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command in this process and give its exit code."""
    monkeypatch.setattr("sys.argv", ["lorafit", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_none_is_missed() -> None:
    assert len(RECIPES) == 9


@every_recipe
def test_it_is_a_lesson(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_LINES
    assert f"lorafit train recipes/{path.name}" in "\n".join(lines[:8])
    assert "Change first" in path.read_text()


@every_recipe
def test_its_run_folder_carries_its_name(path: Path) -> None:
    assert load_recipe(path).recipe.output.dir == f"runs/{path.stem}"


@every_recipe
def test_it_validates(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lorafit(monkeypatch, "validate", f"recipes/{path.name}") == 0


@every_recipe
def test_it_is_estimated(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert lorafit(monkeypatch, "estimate-vram", f"recipes/{path.name}", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    components = sum(component["bytes"] for component in answer["components"])
    assert 0 < answer["peak_bytes"] <= components
    assert 0 < answer["trainable_parameters"] <= answer["total_parameters"]
