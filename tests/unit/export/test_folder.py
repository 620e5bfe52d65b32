"""What stands beside merged weights, and where they may go."""

from pathlib import Path

import pytest

from lorafit.errors import RecipeError, SafetyRefusal
from lorafit.export.folder import check_out, merged_config, merged_generation


def test_a_config_loses_its_quantisation_and_takes_the_new_dtype() -> None:
    base = {"model_type": "llama", "torch_dtype": "float32", "quantization_config": {"quant_method": "bitsandbytes"}}
    assert merged_config(base, "bfloat16") == {"model_type": "llama", "torch_dtype": "bfloat16"}
    assert merged_config({"model_type": "llama"}, "float16") == {"model_type": "llama", "dtype": "float16"}


def test_the_parts_of_a_config_take_the_dtype_where_they_name_one() -> None:
    base = {
        "dtype": "float32",
        "text_config": {"dtype": "float32", "x": 1},
        "vision_config": {"x": 2},
        "list": [{"dtype": 1}],
    }
    assert merged_config(base, "bfloat16") == {
        "dtype": "bfloat16",
        "text_config": {"dtype": "bfloat16", "x": 1},
        "vision_config": {"x": 2},
        "list": [{"dtype": 1}],
    }


@pytest.mark.parametrize(
    ("config", "generation", "stop_ids", "expected"),
    [
        ({"eos_token_id": 2}, {}, [2], [2]),
        ({"eos_token_id": 1}, {"eos_token_id": [1, 3]}, [2], [1, 2, 3]),
        ({"eos_token_id": None}, {"eos_token_id": 0}, [], [0]),
        ({}, {}, [5, 4], [4, 5]),
    ],
)
def test_stop_tokens_are_gathered_from_everywhere(
    config: dict[str, object], generation: dict[str, object], stop_ids: list[int], expected: list[int]
) -> None:
    assert merged_generation(config, generation, stop_ids)["eos_token_id"] == expected


def test_the_rest_of_a_generation_config_stays() -> None:
    made = merged_generation({"bos_token_id": 1, "pad_token_id": None}, {"top_p": 0.9, "bos_token_id": 7}, [])
    assert made == {"top_p": 0.9, "bos_token_id": 7}


def test_where_a_model_may_be_written(tmp_path: Path) -> None:
    run, base, adapter = tmp_path / "run", tmp_path / "base", tmp_path / "run/adapter"
    for folder in (base, adapter):
        folder.mkdir(parents=True)
    for out in (base, base / "x", adapter, adapter / "x/y", run, tmp_path, tmp_path / "run/../base"):
        with pytest.raises(SafetyRefusal):
            check_out(out, force=True, run=run, sources=[base, adapter])
    for out in (tmp_path / "new", run / "merged", tmp_path / "base2", tmp_path / "a/b/c"):
        assert check_out(out, force=False, run=run, sources=[base, adapter]) == out


def test_what_is_there_is_asked_for_twice(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert check_out(out, force=False, run=tmp_path / "run", sources=[]) == out
    (out / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError):
        check_out(out, force=False, run=tmp_path / "run", sources=[])
    with pytest.raises(SafetyRefusal, match="none"):
        check_out(out, force=True, run=tmp_path / "run", sources=[])
    (out / "config.json").write_text("{}")
    assert check_out(out, force=True, run=tmp_path / "run", sources=[]) == out
    file = tmp_path / "file"
    file.write_text("x")
    for force, kind in ((False, RecipeError), (True, SafetyRefusal)):
        with pytest.raises(kind):
            check_out(file, force=force, run=tmp_path / "run", sources=[])
