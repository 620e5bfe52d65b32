"""A base split over processes trains the adapter that a whole one trains, bit for bit, and leaves the same run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_recipe
from safetensors.torch import load_file
from several import begin, do, end, train_in
from test_run import lines, wait_for_steps
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, Qwen2Config, Qwen2ForCausalLM

from lorafit.model.adapt import attach
from lorafit.model.load import load_base, read_mapped
from lorafit.model.memory import recompute_activations
from lorafit.recipe.adapters import Lora
from lorafit.recipe.quantization import Nf4, Quantization, Unquantized
from lorafit.recipe.schema import ModelSpec
from lorafit.rundir.layout import RunFolder
from lorafit.train.ranks import Ranks
from lorafit.train.sizes import choose_sizes
from lorafit.train.start import look_ahead, start

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

# five rows in passes of two: the processes have 3 and 2 rows, in 2 passes and 1
RAGGED = {"training__global_batch_size": 5, "training__micro_batch_size": 2, "training__max_steps": 4}
NF4 = {"quantization": {"kind": "nf4"}, "training__gradient_checkpointing": "full"}
BF16 = {"model__dtype": "bfloat16", "training__gradient_checkpointing": "full", "adapter__dropout": 0.1}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def same(one: Path, other: Path) -> None:
    """Assert that two runs have the same losses, norms and weights, bit for bit."""
    curves = [[(r["loss"], r["grad_norm"]) for r in lines(run / "metrics.jsonl")] for run in (one, other)]
    assert curves[0] == curves[1]
    assert {n: t.tolist() for n, t in weights(one).items()} == {n: t.tolist() for n, t in weights(other).items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"training__eval_every": 2},
        NF4,
        BF16 | {"data__packing": True, "quantization": {"kind": "nf4", "double_quant": False}},
        pytest.param(BF16, marks=pytest.mark.slow),
        pytest.param({"quantization": {"kind": "fp4"}, "training__optimizer": "adamw_8bit"}, marks=pytest.mark.slow),
        pytest.param({"model__attention": "eager", "adapter__target_modules": ["q_proj"]}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_split_base_changes_no_bit(tiny_model: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    for sharding in ("none", "full"):
        loaded = write_recipe(tmp_path, tiny_model, training__sharding=sharding, **RAGGED | changes)
        train_in(2, loaded, tmp_path / sharding)
    same(tmp_path / "none", tmp_path / "full")


def family(name: str, tokenizer: Path, folder: Path) -> Path:
    """Make a small model whose embedding is its head too, in several files: GPT-2 with Conv1D, Qwen2 with biases."""
    sizes = {"vocab_size": 261, "tie_word_embeddings": True}
    torch.manual_seed(0)
    if name == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128, **sizes))
    else:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        model = Qwen2ForCausalLM(
            Qwen2Config(hidden_size=64, intermediate_size=96, num_hidden_layers=2, **heads, **sizes)
        )
    for parameter in model.parameters():  # biases begin at zero
        parameter.data += 0.01 * torch.randn_like(parameter)
    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(folder, max_shard_size="60KB")
    assert (folder / "model.safetensors.index.json").exists()
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpt2", "nf4"),
        pytest.param("qwen2", "none", marks=pytest.mark.slow),
        pytest.param("qwen2", "nf4", marks=pytest.mark.slow),
    ],
)
def test_shared_tables_biases_and_turned_weights(tiny_model: Path, tmp_path: Path, name: str, kind: str) -> None:
    model = family(name, tiny_model, tmp_path / "model")
    for sharding in ("none", "full"):
        changes = {"training__sharding": sharding, "training__max_steps": 2, "quantization": {"kind": kind}}
        train_in(2, write_recipe(tmp_path, model, **changes), tmp_path / sharding)
    same(tmp_path / "none", tmp_path / "full")


@pytest.mark.parametrize("quantization", [Unquantized(), Nf4()], ids=str)
def test_each_process_holds_its_part_and_gives_layers_back(tiny_model: Path, quantization: Quantization) -> None:
    def held(model: torch.nn.Module) -> int:
        parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters() if not p.requires_grad]
        return sum(part.nbytes for part in parts)

    def train_a_little() -> None:
        ranks = Ranks()
        whole = held(load_base(ModelSpec(path=str(tiny_model)), quantization, ranks.device).model)
        base = load_base(ModelSpec(path=str(tiny_model)), quantization, ranks.device, sharded=True)
        model = attach(base.model, Lora(rank=2), "x", 0).model
        recompute_activations(model)
        for _ in range(2):
            model.train()(input_ids=torch.arange(40)[None]).logits.sum().backward()
            assert held(model) <= 0.51 * whole
        ranks.close()

    do(2, train_a_little)


def test_what_a_pass_needs_is_gathered_once_for_its_forward_and_once_for_its_backward(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_a_little() -> None:
        ranks, asked = Ranks(), []
        gather = FSDPParamGroup.unshard

        def unshard(group: FSDPParamGroup, async_op: bool = False) -> None:
            begun = group._all_gather_result is not None
            gather(group, async_op)
            if group._all_gather_result is not None and not begun:
                asked.append(group._module_fqn)

        monkeypatch.setattr(FSDPParamGroup, "unshard", unshard)
        base = load_base(ModelSpec(path=str(tiny_model)), Unquantized(), ranks.device, sharded=True)
        model = attach(base.model, Lora(rank=2), "x", 0).model.train()
        states = base.model.model(input_ids=torch.arange(40)[None]).last_hidden_state
        states.sum().backward()
        assert asked == ["embed_tokens", "layers.0", "layers.1", "layers.1", "layers.0"]
        assert model
        ranks.close()

    do(2, train_a_little)


@pytest.mark.parametrize(
    ("sharding", "processes", "free_gib", "sharded"),
    [
        ("auto", 2, 14, True),  # 15 GiB of weights
        ("auto", 2, 80, False),
        ("auto", 1, 14, False),
        ("none", 2, 14, False),
        ("full", 2, 80, True),
        ("full", 1, 80, False),
    ],
)
def test_auto_splits_what_does_not_fit(
    tmp_path: Path, sharding: str, processes: int, free_gib: int, sharded: bool
) -> None:
    shape = LlamaConfig(vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_key_value_heads=8)
    recipe = write_recipe(tmp_path, "x", training__sharding=sharding, training__micro_batch_size="auto").recipe
    sizes = choose_sizes(recipe, shape.to_dict(), torch.bfloat16, processes, free_gib * 2**30)
    assert sizes.sharded is sharded


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what lies where")
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_weights_are_mapped_from_their_file(tiny_model: Path, wanted: torch.dtype) -> None:
    settings = {"dtype": wanted, "device_map": {"": torch.device("cpu")}}
    model, found = read_mapped(AutoModelForCausalLM, tiny_model, settings)
    assert not found["missing_keys"]
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if ".safetensors" in line]
    mapped = [range(*(int(end, 16) for end in line[0].split("-"))) for line in lines]
    for name, parameter in model.named_parameters():
        assert any(parameter.data_ptr() in place for place in mapped), name


def test_one_process_is_told_that_it_holds_the_whole_base(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = write_recipe(tmp_path, tiny_model, training__sharding="full")
    for processes in (1, 2):
        look_ahead(loaded, processes)
        assert ("needs several processes (--gpus N)" in capsys.readouterr().err) is (processes == 1)


def test_stopped_in_two_processes_it_goes_on_in_one(tiny_model: Path, tmp_path: Path) -> None:
    changes = {**RAGGED, "training__max_steps": 30, "training__save_every": 3}
    start(write_recipe(tmp_path, tiny_model, **changes), tmp_path / "whole", "new")
    split = write_recipe(tmp_path, tiny_model, training__sharding="full", **changes)
    processes = begin(split, [tmp_path / "run"] * 2)
    wait_for_steps(processes[0].is_alive, tmp_path / "run" / "metrics.jsonl", 7)
    for process in processes:
        process.kill()
    end(processes)
    start(write_recipe(tmp_path, tiny_model, **changes), tmp_path / "run", "resume")
    one, two = (load for load in map(weights, (tmp_path / "whole", tmp_path / "run")))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    assert RunFolder(tmp_path / "run").checkpoint_steps()
