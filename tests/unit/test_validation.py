"""What `validate` says of a recipe whose parts do not fit together."""

import json
from pathlib import Path

import pytest

from lorafit import assets
from lorafit.errors import DataError, LorafitError
from lorafit.recipe.load import load_recipe
from lorafit.report.validation import check

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


def faults(*overrides: str) -> list[str]:
    with pytest.raises(LorafitError) as caught:
        check(load_recipe(RECIPE, overrides))
    return [str(fault) for fault in caught.value.faults]


def test_a_good_recipe_shows_every_setting() -> None:
    verdict = check(load_recipe(RECIPE))
    assert verdict.as_json()["valid"] is True
    assert "  keep_checkpoints: 2" in verdict.as_text()
    assert "q_proj x4" in verdict.as_text()


def test_faults_of_all_kinds_come_at_once() -> None:
    said = faults("adapter.target_modules=[q_prog]", "data.train.path=./none.jsonl", "adapter.init_from=./no")
    assert len(said) == 3
    assert any("q_prog" in line and "q_proj" in line for line in said)
    assert any("none.jsonl" in line for line in said)


def test_the_lowest_exit_code_wins() -> None:
    with pytest.raises(DataError):
        check(load_recipe(RECIPE, ["model.path=./none", "data.train.path=./none.jsonl"]))


def test_a_model_that_cannot_be_seen_is_noted() -> None:
    assert any("were not checked" in note for note in check(load_recipe(RECIPE, ["model.path=org/unseen"])).notes)


def test_a_family_without_a_known_shape_is_noted_since_it_trains(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt", "hidden_size": 32}))
    notes = check(load_recipe(RECIPE, [f"model.path={tmp_path}"])).notes
    assert any("'opt' is no family that lorafit knows the shape of: its layers were not checked" in n for n in notes)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    assert any("config.json" in line for line in faults(f"model.path={tmp_path}"))


def test_a_tracker_that_is_not_there_is_said_before_the_run() -> None:
    assert any("mlflow is not installed" in line for line in faults("output.trackers=[mlflow]"))


def test_rows_beyond_the_positions_are_warned_of() -> None:
    assert not [note for note in check(load_recipe(RECIPE)).notes if "warning" in note]
    notes = check(load_recipe(RECIPE, ["data.max_length=513"])).notes
    assert [note for note in notes if "the model was made for 512 positions" in note]


def test_a_base_of_quantised_weights_is_refused(tmp_path: Path) -> None:
    config = json.loads((assets.folder("builtin:tiny") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    assert any("quantised already (awq)" in line for line in faults(f"model.path={tmp_path}"))
    assert any("quantised already (mxfp4)" in line for line in faults("model.path=openai/gpt-oss-20b"))
