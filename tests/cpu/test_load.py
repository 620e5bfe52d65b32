"""Finding and loading a base: what is refused, and what quantised weights must stay."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from bitsandbytes.nn import modules as bitsandbytes_modules
from safetensors.torch import load_file, save_file
from toys import save_toy, toy_llama
from transformers import core_model_loading

from lorafit.errors import LorafitError, ModelError, RecipeError, SafetyRefusal, StorageError
from lorafit.evaluate.chat import converse
from lorafit.evaluate.target import find_target
from lorafit.model.adapt import attach
from lorafit.model.documents import use_flat_rows
from lorafit.model.find import check_weights, find_model
from lorafit.model.load import load_base
from lorafit.model.run import base_folder, read_recipe
from lorafit.model.trace_log import StorageLog
from lorafit.recipe.adapters import Lora
from lorafit.recipe.quantization import Nf4, Unquantized
from lorafit.recipe.resolved import canonical_json
from lorafit.recipe.schema import DataSpec, Dtype, ModelSpec, Recipe, Source
from lorafit.rundir.layout import RunFolder

CPU = torch.device("cpu")


def test_evaluating_a_four_bit_model_leaves_its_gradients_alone(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bitsandbytes_modules, "has_avx512bf16", lambda: True)  # as on a server's CPU
    base = load_base(ModelSpec(path=str(tiny_model)), Nf4(), CPU)
    layers = [module for module in base.model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14
    packed = [layer.weight.data.clone() for layer in layers]
    use_flat_rows(base.model, "auto")  # runs the model in evaluation mode
    model = attach(base.model, Lora(rank=4), "base", 0).model
    assert all(torch.equal(layer.weight.data, data) for layer, data in zip(layers, packed, strict=True))
    ids = torch.arange(5, 15)[None]
    hidden = model.get_input_embeddings()(ids).requires_grad_()
    bounds = torch.tensor([0, 10], dtype=torch.int32)
    model.train()(
        inputs_embeds=hidden, position_ids=torch.arange(10)[None], cu_seq_lens_q=bounds, max_length_q=10
    ).logits.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0


@pytest.mark.parametrize(("stored", "wanted"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_four_bit_base_is_never_whole_in_more_bits(
    stored: Dtype, wanted: Dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_model_loading, "ThreadPoolExecutor", None)  # none reads ahead of the packing
    toy = toy_llama(num_hidden_layers=16, hidden_size=128, intermediate_size=256)
    folder = save_toy(toy.to(getattr(torch, stored)), tmp_path / "toy", max_shard_size="500KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    most, held = {}, {}
    for name, quantization in {"packed": Nf4(), "plain": Unquantized()}.items():
        monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", str(int(name == "plain")))  # the log sees one thread
        with StorageLog() as log:
            base = load_base(ModelSpec(path=str(folder), dtype=wanted), quantization, CPU)
            most[name], held[name] = max(peak.bytes for peak in log.peaks.values()), log.bytes
        del base
    assert held["plain"] >= sum(p.numel() for p in toy.parameters()) * getattr(torch, wanted).itemsize
    assert most["packed"] < held["packed"] + held["plain"] / 16


def change_config(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def refusal(folder: Path) -> LorafitError:
    with pytest.raises(LorafitError) as caught:
        load_base(ModelSpec(path=str(folder)), Nf4(), CPU)
    return caught.value


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_model_that_brings_code_is_refused(copy: Path) -> None:
    change_config(copy, model_type="its_own", auto_map={"AutoModelForCausalLM": "modeling.Own"})
    error = refusal(copy)
    assert isinstance(error, SafetyRefusal)
    assert "auto_map" in str(error)


def test_built_in_code_is_used_where_a_model_brings_its_own_too(copy: Path) -> None:
    change_config(copy, auto_map={"AutoModelForCausalLM": "modeling.Own"})
    (copy / "modeling.py").write_text("raise SystemExit('ran code of the model')")
    load_base(ModelSpec(path=str(copy)), Nf4(), CPU)


@pytest.mark.parametrize("where", ["config", "text_config"])
@pytest.mark.parametrize("key", ["_attn_implementation", "_attn_implementation_internal", "attn_implementation"])
def test_a_kernel_from_the_hub_is_refused(copy: Path, key: str, where: str) -> None:
    change_config(copy, **({key: "someone/kernel"} if where == "config" else {where: {key: "someone/kernel"}}))
    error = refusal(copy)
    assert isinstance(error, SafetyRefusal)
    assert "someone/kernel" in str(error)


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert isinstance(refusal(copy), SafetyRefusal)


def test_an_index_may_not_name_files_elsewhere(copy: Path) -> None:
    index = {"weight_map": {"a": "../model.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert isinstance(refusal(copy), SafetyRefusal)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"model_type": "llama", "hidden_size": "wide"}', '{"model_type": "no_such_thing"}'],
    ids=str,
)
def test_a_broken_config_is_an_error_of_the_model(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    assert isinstance(refusal(copy), ModelError)


@pytest.mark.parametrize("cut", [0, 4, 200, -100])
def test_torn_weights_are_an_error_of_the_model(copy: Path, cut: int) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    assert isinstance(refusal(copy), ModelError)


def test_weights_that_are_not_there_are_not_drawn_at_random(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    error = refusal(copy)
    assert isinstance(error, ModelError)
    assert "model.layers.1.mlp.up_proj.weight" in str(error)


def test_a_missing_shard_is_named(copy: Path) -> None:
    index = {"weight_map": {"a": "model-2.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="model-2"):
        check_weights(copy)


@pytest.mark.parametrize("path", ["./nothing", "/nothing/here", "nothing", "a/b/c", "org/absent"])
def test_a_model_that_is_nowhere_is_one_clear_error(path: str) -> None:
    with pytest.raises(ModelError) as caught:
        find_model(path)
    assert len(caught.value.faults) == 1
    assert path in str(caught.value)


@pytest.mark.parametrize("name", ["./none", "none", "runs/none"])
def test_a_missing_model_is_named_by_what_the_user_typed(name: str) -> None:
    with pytest.raises(ModelError) as in_recipe:
        find_model(name)
    with pytest.raises(ModelError) as on_command_line:
        find_target(name)
    assert in_recipe.value.faults[0].where == "model.path"
    assert on_command_line.value.faults[0].where.startswith("RUN|MODEL")
    assert "model.path" not in str(on_command_line.value)


def test_a_base_that_is_gone_is_named_by_the_recipe_of_its_run(tmp_path: Path) -> None:
    run, spec = RunFolder(tmp_path), ModelSpec(path="./gone")
    recipe = Recipe(version=1, model=spec, data=DataSpec(train=[Source(path="rows.jsonl")]))
    with pytest.raises(ModelError, match=r"recipe\.resolved\.json: model\.path: no model folder at '\./gone'"):
        base_folder(run, recipe)


WHOLE = canonical_json(Recipe(version=1, model=ModelSpec(path="m"), data=DataSpec(train=[Source(path="rows.jsonl")])))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        (b"", "recipe"),
        (WHOLE.encode()[:200], "recipe.resolved.json:"),
        (WHOLE.replace('"rank"', '"rnk"').encode(), "adapter.rnk: is damaged, or of another version"),
        (b"\xff\xfe", "decode"),
    ],
    ids=["gone", "empty", "cut", "another key", "no text"],
)
def test_a_damaged_recipe_of_a_run_is_a_fault_of_its_folder(tmp_path: Path, text: bytes | None, said: str) -> None:
    run = RunFolder(tmp_path)
    run.state.write_text("{}")
    if text is not None:
        run.resolved_recipe.write_bytes(text)
    with pytest.raises(StorageError, match="E7-DAMAGED") as caught:
        read_recipe(run)
    assert all(fault.where.startswith(f"{run.resolved_recipe}") and fault.fix for fault in caught.value.faults)
    assert said in str(caught.value)
    assert caught.value.exit_code == 7


def test_an_adapter_alone_sends_to_its_run(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is an adapter, without a base; give the folder of the run"):
        find_target(str(tmp_path / "adapter"))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ModelError, match=f"give its run: {tmp_path} "):
        find_target(str(tmp_path / "adapter"))


@pytest.mark.parametrize("word", ["\udcff", "x" * 5000], ids=["no UTF-8", "too long"])
def test_words_that_are_no_path_and_no_text(word: str, tmp_path: Path) -> None:
    for ask in (lambda: find_target(word), lambda: find_target("builtin:tiny", [word])):
        with pytest.raises(RecipeError) as caught:
            ask()
        assert len(str(caught.value)) < 300
        assert caught.value.faults[0].fix
    with pytest.raises(RecipeError, match=r"--prompt: .* not UTF-8"):
        converse("builtin:tiny", "\udcff", max_new_tokens=1, speak=False)
