"""What a config.json says of positions and of how weights are stored; whatever stands in it, no crash."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.errors import ModelError
from lorafit.plan.base_config import beyond_positions, positions, refuse_stored_quantised, stored_as
from lorafit.plan.shapes import shape_by_name
from lorafit.plan.vram import answer

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 4096,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA31 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (LLAMA, 4096),
        ({"n_positions": 1024}, 1024),
        ({}, None),
        ({"max_position_embeddings": 32768, "rope_scaling": None}, 32768),
        ({"max_position_embeddings": 32768, "rope_scaling": YARN}, 131_072),  # as Qwen 2.5 writes it
        ({"max_position_embeddings": 131_072, "rope_parameters": LLAMA31}, 131_072),  # already counted
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16_384),
        ({"text_config": {"max_position_embeddings": 8192, "rope_parameters": {"full_attention": YARN}}}, 131_072),
    ],
)
def test_positions_of_configurations_as_they_are_published(config: dict[str, object], most: int | None) -> None:
    assert positions(config) == most


def test_a_longer_row_is_warned_of_and_a_table_of_positions_has_an_end() -> None:
    assert beyond_positions(4096, LLAMA) == ""
    assert "made for 4,096 positions" in beyond_positions(4097, LLAMA)
    assert "no row beyond its 1,024" in beyond_positions(2048, {"model_type": "gpt2", "n_positions": 1024})


@pytest.mark.parametrize(
    ("block", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits"),
        ({"quant_method": "awq", "bits": 4}, "awq, 4 bits"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, "bitsandbytes, 8 bits"),
        (None, None),
    ],
)
def test_a_checkpoint_of_quantised_weights_is_no_base(block: object, name: str | None, tmp_path: Path) -> None:
    config = LLAMA | {"quantization_config": block}
    assert stored_as(config) == name
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = {"method": "qlora", "rank": None, "target_modules": None, "max_length": None, "micro_batch_size": None}
    if name is None:
        assert answer(None, model=str(tmp_path), gpus=1, gpu=None, **asked)  # type: ignore[arg-type]
        return
    with pytest.raises(ModelError, match=f"quantised already .{name}.*E4-QUANTIZED"):
        answer(None, model=str(tmp_path), gpus=1, gpu=None, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "stored"),
    [("gpt-oss-20b", "mxfp4"), ("gpt-oss-120b", "mxfp4"), ("deepseek-v3", "fp8"), ("deepseek-r1", "fp8"),
     ("kimi-k2", "fp8"), ("minimax-m2", "fp8"), ("8b", ""), ("deepseek-v2", "")],
)  # fmt: skip
def test_an_estimate_says_what_is_published_quantised(name: str, stored: str) -> None:
    asked = {"method": None, "rank": None, "target_modules": None, "max_length": None, "micro_batch_size": None}
    found = answer(None, model=name, gpus=1, gpu=None, **asked)  # type: ignore[arg-type]
    said = f"is published with its weights in {stored}, and `train` refuses"
    assert [said in warning for warning in found.warnings] == ([True] if stored else [])
    assert ("counted is a copy of it in 16 bits" in found.as_text()) is bool(stored)


def test_an_estimate_warns_of_rows_beyond_the_positions(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    asked = {"method": None, "rank": None, "target_modules": None, "micro_batch_size": None, "gpus": 1}
    short, long = (answer(None, model=str(tmp_path), max_length=n, gpu="24GB", **asked) for n in (4096, 8192))  # type: ignore[arg-type]
    assert short.as_json()["warnings"] == []
    assert "Warning: data.max_length is 8,192" in long.as_text()
    assert "tokens (the model was made for 4,096)" in short.as_text()


@pytest.mark.parametrize(("name", "most"), [("8b", 8192), ("llama-3.1-8b", 131_072), ("gpt2", 1024), ("phi-2", 2048)])
def test_a_name_knows_its_positions(name: str, most: int) -> None:
    assert positions(shape_by_name(name).config) == most


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from(
    ["max_position_embeddings", "rope_scaling", "rope_parameters", "factor", "quantization_config", "quant_method",
     "bits", "text_config", "model_type", "original_max_position_embeddings"]
)  # fmt: skip


@given(st.dictionaries(KEYS, ANYTHING | st.dictionaries(KEYS, ANYTHING, max_size=3), max_size=5))
def test_whatever_stands_in_a_config_is_read_or_passed_over(config: dict[str, object]) -> None:
    most = positions(config)
    assert most is None or most > 0
    assert beyond_positions(1, config) == ""
    if stored_as(config) is None:
        refuse_stored_quantised(config, "here")
