"""The face does not change by accident: commands, exit codes, the layout of a run."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorafit import cli, errors
from lorafit.not_built import NOT_BUILT
from lorafit.rundir.layout import RunFolder
from scripts.record_golden import GOLDEN, commands

EXIT_CODES = {
    "RecipeError": 2,
    "DataError": 3,
    "ModelError": 4,
    "MachineError": 5,
    "OutOfMemory": 6,
    "StorageError": 7,
    "NumericalError": 8,
    "RunInUse": 9,
    "ResumeRefused": 10,
    "RankLost": 11,
    "SafetyRefusal": 12,
    "Stopped": 75,
}


def test_the_commands_are_those_on_record() -> None:
    recorded = json.loads((GOLDEN / "commands.json").read_text())
    assert json.loads(commands()) == recorded, "python -m scripts.record_golden commands.json, and say why"


def test_every_error_has_its_exit_code() -> None:
    assert {kind.__name__: kind.exit_code for kind in errors.LorafitError.__subclasses__()} == EXIT_CODES


def test_the_layout_of_a_run() -> None:
    run = RunFolder(Path("r"))
    names = (run.state, run.recipe, run.resolved_recipe, run.manifest, run.events, run.metrics, run.lock)
    assert [path.name for path in names] == [
        "run.json",
        "recipe.yaml",
        "recipe.resolved.json",
        "manifest.json",
        "events.jsonl",
        "metrics.jsonl",
        "run.lock",
    ]
    assert run.checkpoint(120) == Path("r/checkpoints/step-00000120")
    assert (run.adapter, run.reports) == (Path("r/adapter"), Path("r/reports"))


@pytest.mark.parametrize("name", NOT_BUILT)
@pytest.mark.parametrize("arguments", [[], ["x"], ["--help"], ["--json", "x", "-n", "3"]], ids=str)
def test_a_command_that_is_not_built_says_so(name: str, arguments: list[str]) -> None:
    error = CliRunner().invoke(cli.app, [name, *arguments]).exception
    assert isinstance(error, errors.RecipeError)
    assert "is not part of version" in str(error)


def test_many_faults_are_cut_for_people_and_whole_for_programs() -> None:
    error = errors.DataError([errors.Fault(f"row {number}") for number in range(30)])
    assert str(error).splitlines()[-1] == "and 11 more"
    assert len(error.as_json()["error"]["faults"]) == 30  # type: ignore[index]
