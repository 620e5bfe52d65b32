"""Shapes from configurations: families, faults, and names as people type them."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafit.errors import ModelError
from lorafit.plan.catalogue import entries
from lorafit.plan.families import FAMILIES
from lorafit.plan.find_shape import find_shape
from lorafit.plan.shapes import ModelShape, shape_by_name, shape_from_config

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
}  # fmt: skip


def test_a_llama_by_hand() -> None:
    shape = shape_from_config(LLAMA, "toy")
    attention = 64 * 64 + 2 * 64 * 32 + 64 * 64
    assert shape.linear_parameters == 3 * (attention + 3 * 64 * 128)
    assert shape.other_parameters == 3 * 2 * 64 + 64
    assert shape.total_parameters == shape.linear_parameters + shape.other_parameters + 2 * 100 * 64
    assert [linear.name for linear in shape.linears()[:8]] == [
        "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj",
        "model.layers.0.self_attn.o_proj", "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj",
        "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj",
    ]  # fmt: skip


def test_equal_layers_are_one_object() -> None:
    assert len({id(layer) for layer in shape_from_config(LLAMA, "toy").layers}) == 1


def test_a_tied_matrix_counts_once() -> None:
    tied = shape_from_config(LLAMA | {"tie_word_embeddings": True}, "toy")
    assert shape_from_config(LLAMA, "toy").total_parameters - tied.total_parameters == 100 * 64


def test_a_mixture_of_experts_says_what_is_not_adapted() -> None:
    shape = shape_by_name("mixtral-8x7b").shape
    assert shape.expert_parameters == 32 * 8 * 3 * 4096 * 14336
    assert any("neither adapted nor quantised" in note for note in shape.notes)
    assert {linear.kind for linear in shape.linears()} == {"attention"}


def test_qwq_has_the_biases_of_the_qwen_it_is_made_of() -> None:
    """A table of shapes that it was read from lacks them."""
    qwq, qwen = shape_by_name("QwQ-32B").shape, shape_by_name("Qwen/Qwen2.5-32B").shape
    biased = [linear.name.rpartition(".")[2] for linear in qwq.layers[0].linears if linear.bias]
    assert biased == ["q_proj", "k_proj", "v_proj"]
    assert qwq.layers == qwen.layers


def test_the_text_part_of_a_model_that_sees() -> None:
    text = {key: value for key, value in LLAMA.items() if key != "model_type"} | {"head_dim": 16}
    shape = shape_from_config({"model_type": "gemma3", "text_config": text, "vision_config": {}}, "toy")
    assert shape.model_type == "gemma3_text"
    assert any("text part" in note for note in shape.notes)


def test_unknown_family_names_the_nearest_and_the_known() -> None:
    with pytest.raises(ModelError, match="mistrall") as caught:
        shape_from_config(LLAMA | {"model_type": "mistrall"}, "here/config.json")
    assert "did you mean mistral?" in str(caught.value)
    assert "qwen3_moe" in str(caught.value)
    assert str(caught.value).startswith("here/config.json")


@pytest.mark.parametrize(
    ("model_type", "said"),
    [(None, "the key is missing"), (7, "expected a name, found 7"), (["llama"], r"expected a name, found \['llama'\]")],
)
def test_a_model_type_that_is_none(model_type: object, said: str) -> None:
    with pytest.raises(ModelError, match=f"model_type: {said}"):
        shape_from_config(LLAMA | {"model_type": model_type}, "toy")


def test_all_faults_at_once() -> None:
    broken = LLAMA | {"hidden_size": "64", "num_hidden_layers": True, "vocab_size": 0, "mlp_bias": "no"}
    del broken["intermediate_size"]
    with pytest.raises(ModelError) as caught:
        shape_from_config(broken, "toy")
    named = {fault.what.split(":")[0] for fault in caught.value.faults}
    assert named == {"hidden_size", "num_hidden_layers", "vocab_size", "mlp_bias", "intermediate_size"}
    assert "found '64'" in str(caught.value)  # a text is seen to be one
    assert "found 0" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads: expected a divisor of the hidden size 64"),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            "num_key_value_heads: expected a divisor of the 4 heads",
        ),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 8},
            "num_key_value_heads: expected a divisor of the 4 heads",
        ),
    ],
    ids=str,
)
def test_heads_share_the_width_and_the_keys(change: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        shape_from_config(LLAMA | {"hidden_size": 64} | change, "toy")
    shape_from_config(
        LLAMA | {"hidden_size": 64, "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 16}, "toy"
    )


def test_lists_of_layers_must_have_an_entry_each() -> None:
    config = entries_by_id()["Qwen/Qwen3.5-9B"] | {"layer_types": ["full_attention"] * 3}
    with pytest.raises(ModelError, match="layer_types: expected 32 entries"):
        shape_from_config(config, "toy")


def shape_or_faults(make: Callable[[], ModelShape]) -> bool:
    """Say that this gives a shape with parameters, or a fault with its remedy; anything else is our bug."""
    try:
        return make().total_parameters > 0
    except ModelError as error:
        return all(fault.fix for fault in error.faults)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    changes=st.dictionaries(st.sampled_from([*LLAMA, "head_dim", "layer_types", "num_experts"]), json_values),
)
def test_a_broken_config_is_a_fault_and_never_a_bug(family: str, changes: dict[str, object]) -> None:
    config = LLAMA | {"num_experts": 4, "moe_intermediate_size": 32} | changes | {"model_type": family}
    assert shape_or_faults(lambda: shape_from_config(config, "toy"))


def entries_by_id() -> dict[str, dict[str, object]]:
    return {entry.hub_id: entry.config for entry in entries()}


def test_the_catalogue_is_whole() -> None:
    ids = [entry.hub_id for entry in entries()]
    assert len(ids) == len({hub_id.lower() for hub_id in ids}) >= 118
    for entry in entries():
        assert shape_by_name(entry.hub_id).taken_as == entry.hub_id
        assert shape_from_config(entry.config, entry.hub_id).total_parameters > 10**8


@pytest.mark.parametrize(
    ("typed", "taken_as"),
    [
        ("deepseek v3", "deepseek-ai/DeepSeek-V3"),
        ("DeepSeek-R1", "deepseek-ai/DeepSeek-R1"),
        ("llama 3.3 70b", "meta-llama/Llama-3.3-70B-Instruct"),
        ("405b", "meta-llama/Llama-3.1-405B"),
        ("qwen3 235b", "Qwen/Qwen3-235B-A22B"),
        ("30b-a3b", "Qwen/Qwen3-30B-A3B"),
        ("mixtral 8x7b", "mistralai/Mixtral-8x7B-v0.1"),
        ("vicuna-13b", "lmsys/vicuna-13b-v1.5"),
        ("zephyr-7b", "HuggingFaceH4/zephyr-7b-beta"),
        ("gpt_bigcode-santacoder", "bigcode/gpt_bigcode-santacoder"),
        ("70b", "meta-llama/Meta-Llama-3-70B"),
        ("8B", "meta-llama/Meta-Llama-3-8B"),
        ("7b", "meta-llama/Llama-2-7b-hf"),
        ("8x7b", "mistralai/Mixtral-8x7B-v0.1"),
        ("65b", "huggyllama/llama-65b"),
        ("llama-3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("llama3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("Llama 3 8B", "meta-llama/Meta-Llama-3-8B"),
        ("llama3.1-70b", "meta-llama/Llama-3.1-70B"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B"),
        ("META-LLAMA/llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("qwen2.5-7b", "Qwen/Qwen2.5-7B"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.3"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-v0.3"),
        ("gemma-2-9b-it", "google/gemma-2-9b"),
        ("gpt-oss-20b", "openai/gpt-oss-20b"),
        ("tinyllama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        ("phi-4", "microsoft/phi-4"),
        ("gpt2", "openai-community/gpt2"),
        ("olmo-2-7b", "allenai/OLMo-2-1124-7B"),  # a date in between
        ("olmo2-13b", "allenai/OLMo-2-1124-13B"),
        ("command-r", "CohereForAI/c4ai-command-r-v01"),  # words before and after
        ("command-r7b", "CohereForAI/c4ai-command-r7b-12-2024"),
        ("command-r:35b", "CohereForAI/c4ai-command-r-v01"),  # a size that its name does not say
        ("ministral-8b", "mistralai/Ministral-3-8B-Base-2512"),
        ("granite-8b", "ibm-granite/granite-3.1-8b-base"),
        ("llama-8b", "meta-llama/Meta-Llama-3-8B"),
        ("qwen25-7b", "Qwen/Qwen2.5-7B"),
        ("phi-1.5", "microsoft/phi-1_5"),
        ("llama3.1:70b", "meta-llama/Llama-3.1-70B"),  # tags of ollama
        ("gemma3:4b", "google/gemma-3-4b-it"),
        ("deepseek-r1:8b", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        ("deepseek-r1:671b", "deepseek-ai/DeepSeek-R1"),
        ("mistral-nemo-12b", "mistralai/Mistral-Nemo-Base-2407"),
        ("phi-4-14b", "microsoft/phi-4"),
        ("500m", "Qwen/Qwen2.5-0.5B"),
        ("124m", "openai-community/gpt2"),
        ("671b", "deepseek-ai/DeepSeek-V3"),
        ("1t", "moonshotai/Kimi-K2-Instruct"),
        ("Llama3_8B", "meta-llama/Meta-Llama-3-8B"),
        ("qwen2_5_7b", "Qwen/Qwen2.5-7B"),
        ("llama-33b", "huggyllama/llama-30b"),  # 32.5 billion: its paper says 33B
        ("3.8b", "microsoft/Phi-3-mini-4k-instruct"),  # and not a model of 3.88 billion
    ],
)
def test_names_as_people_type_them(typed: str, taken_as: str) -> None:
    assert shape_by_name(typed).taken_as == taken_as


def test_a_bare_size_names_the_others() -> None:
    others = shape_by_name("70b").alternatives
    assert "meta-llama/Llama-2-70b-hf" in others
    assert "meta-llama/Llama-3.1-70B" in others


def test_a_version_is_not_swallowed() -> None:
    """`llama-3-8b` and `llama-3.1-8b` must stay apart, and 38b must not be read out of 3-8b."""
    assert shape_by_name("llama-3.1-8b").taken_as != shape_by_name("llama-3-8b").taken_as
    with pytest.raises(ModelError):
        shape_by_name("38b")


@pytest.mark.parametrize("typed", ["llama", "qwen2.5", "gpt-oss"])
def test_a_name_without_a_size_asks_which(typed: str) -> None:
    with pytest.raises(ModelError, match="say which"):
        shape_by_name(typed)


@pytest.mark.parametrize("typed", ["", "-", "/", "lama-3-8b", "someone/private-model"])
def test_an_unknown_name(typed: str) -> None:
    with pytest.raises(ModelError, match="no model of this name"):
        shape_by_name(typed)
    if typed == "lama-3-8b":
        with pytest.raises(ModelError, match="did you mean meta-llama/Meta-Llama-3-8B"):
            shape_by_name(typed)


@pytest.mark.parametrize(
    ("typed", "asked_back"),
    [
        ("100b", "zai-org/GLM-4.5-Air (107b)"),
        ("70", "did you mean 70b?"),
        ("70000000000", "did you mean 70b?"),
        ("70bn", "no model of this name in the catalogue; give a hub id"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistralai/Mistral-7B-v0.3"),
        ("qwen3-4b-instruct-2507", "Qwen/Qwen3-4B"),
        ("unsloth/llama-3-8b-bnb-4bit", "meta-llama/Meta-Llama-3-8B"),
        ("llama-31b", "huggyllama/llama-30b"),
    ],
)
def test_an_unknown_name_is_asked_back(typed: str, asked_back: str) -> None:
    with pytest.raises(ModelError, match=re.escape(asked_back)):
        shape_by_name(typed)


@pytest.mark.parametrize(
    "typed", ["deepseek-r1-distill-qwen-7b", "hermes-3-llama-3.1-8b", "qwen1.5-7b", "mistral-7b-v0.2", "gemma-3-270m"]
)
def test_another_model_is_not_taken_for_a_name(typed: str) -> None:
    with pytest.raises(ModelError):
        shape_by_name(typed)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=30), st.from_regex(r"([a-z]{1,3}[-:_ ]?)?\d{0,3}(\.\d)?[bmt]?", fullmatch=True)))
def test_any_name_is_found_or_refused(typed: str) -> None:
    assert shape_or_faults(lambda: shape_by_name(typed).shape)


def test_unconfirmed_entries_say_so() -> None:
    assert any("one source" in note for note in shape_by_name("yi-9b").shape.notes)


def test_a_folder_and_a_config_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    from_folder, from_file = find_shape(str(tmp_path)), find_shape(str(tmp_path / "config.json"))
    assert replace(from_folder.shape, name="") == replace(from_file.shape, name="")
    assert from_folder.taken_as == str(tmp_path)


def test_the_built_in_model_has_a_shape() -> None:
    assert find_shape("builtin:tiny").shape.total_parameters < 10**7


def test_a_hub_id_in_the_cache_comes_before_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--meta-llama--Meta-Llama-3-8B"
    for commit, layers in (("abc", 3), ("def", 5)):
        (model / "snapshots" / commit).mkdir(parents=True)
        config = json.dumps(LLAMA | {"num_hidden_layers": layers})
        (model / "snapshots" / commit / "config.json").write_text(config)
    assert len(find_shape("meta-llama/Meta-Llama-3-8B").shape.layers) == 32  # no branch `main` in the cache
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc\n")
    assert len(find_shape("meta-llama/Meta-Llama-3-8B").shape.layers) == 3
    assert len(find_shape("meta-llama/Meta-Llama-3-8B", "def").shape.layers) == 5


def test_a_hub_id_that_nobody_here_knows_is_asked_for_online_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"num_hidden_layers": 7}))
    asked: list[str] = []

    def download(hub_id: str, name: str, **_: object) -> str:
        asked.append(f"{hub_id}/{name}")
        if hub_id == "someone/away":
            raise OSError("401: you are not logged in")
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for online, offline in ((False, "0"), (True, "1")):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        with pytest.raises(ModelError, match="no model of this name"):
            find_shape("someone/new", online=online)
    assert not asked
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert len(find_shape("someone/new", online=True).shape.layers) == 7
    with pytest.raises(ModelError, match=r"no model of this name.*does not give its config.json \(401"):
        find_shape("someone/away", online=True)
    assert find_shape("8b", online=True).taken_as == "meta-llama/Meta-Llama-3-8B"
    assert asked == ["someone/new/config.json", "someone/away/config.json"]


@pytest.mark.parametrize(
    ("content", "message"), [("{", "cannot be read"), ("[]", "no JSON object"), (None, "holds no config.json")]
)
def test_a_folder_without_a_usable_config(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=re.escape(message)):
        find_shape(str(tmp_path))


def test_a_config_that_cannot_be_opened_is_not_said_to_be_a_bad_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("config.json")  # an error of the system, whoever runs the test
    with pytest.raises(ModelError, match="cannot be read: Too many levels of symbolic links; mend its rights"):
        find_shape(str(tmp_path))


@pytest.mark.parametrize("name", ["x" * 5000, "/" + "x" * 300, "a\0b"])
def test_a_name_that_no_file_system_takes(name: str) -> None:
    with pytest.raises(ModelError):
        find_shape(name)


def test_a_path_that_is_not_there_is_no_name() -> None:
    with pytest.raises(ModelError, match="no model folder"):
        find_shape("./nowhere")
