"""The face does not change by accident: commands, exit codes, the layout of a run."""

import errno
import json
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "builtin:tiny", "--prompt", ""], "the prompt is empty"),
        (["generate", "builtin:tiny", "--prompt", "  \n"], "the prompt is empty"),
        (["eval", "builtin:tiny", "--data", ""], "--data names nothing"),
    ],
)
def test_an_option_with_nothing_in_it_is_not_taken_for_one(words: list[str], message: str) -> None:
    error = CliRunner().invoke(cli.app, words).exception
    assert isinstance(error, errors.RecipeError)
    assert message in str(error)


@pytest.mark.parametrize("kind", errors.LorafitError.__subclasses__())
def test_a_program_always_gets_a_remedy(kind: type[errors.LorafitError]) -> None:
    told: Any = kind([errors.Fault("it broke"), errors.Fault("it broke", fix="mend it")]).as_json()["error"]
    assert [bool(fault["fix"]) for fault in told["faults"]] == [True, True]
    assert told["faults"][1]["fix"] == "mend it"


@pytest.mark.parametrize(("number", "code"), [(errno.EACCES, 7), (errno.ENAMETOOLONG, 7), (errno.ENOENT, None)])
def test_what_the_machine_refuses_is_no_bug_of_ours(
    number: int, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, "no", "there")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit if code else OSError) as left:
        cli.main()
    assert code is None or left.value.code == code


def test_a_recipe_in_a_name_too_long_for_a_file() -> None:
    assert isinstance(CliRunner().invoke(cli.app, ["validate", "x" * 5000]).exception, errors.RecipeError)
