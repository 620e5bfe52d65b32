"""Merging: the same function as base and adapter, whole on disk or not there, and never wrong in silence."""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from toys import randomise, save_toy, toy_gpt2, toy_llama, toy_qwen2, toy_run, toy_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lorafit.errors import LorafitError, ModelError, RecipeError, SafetyRefusal
from lorafit.export import merge as merging
from lorafit.export.arithmetic import float32_logits
from lorafit.export.assemble import Merged, by_stored_name
from lorafit.export.fold import FoldedLinear
from lorafit.export.folder import being_written
from lorafit.export.merge import merge
from lorafit.export.probe import random_rows
from lorafit.export.shards import Weights, write_shards
from lorafit.export.verify import fold_and_expect
from lorafit.model.load import load_base
from lorafit.model.run import load_run
from lorafit.rundir.commit import verify_folder

ROWS = random_rows(vocabulary=100, seed=5)
LORA = {"kind": "lora", "rank": 4, "alpha": 8.0}
BASES: dict[str, Callable[[], PreTrainedModel]] = {"llama": toy_llama, "qwen2": toy_qwen2, "gpt2": toy_gpt2}
ADAPTERS: dict[str, dict[str, object]] = {
    "lora": LORA,
    "rslora": LORA | {"rslora": True},
    "dora": LORA | {"kind": "dora"},
    "attention only": LORA | {"target_modules": "attention"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy(toy_llama(), tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture
def run(tmp_path: Path, base: Path) -> Path:
    return toy_run(tmp_path / "run", base)


def loaded(folder: Path, **options: object) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    assert isinstance(model, PreTrainedModel)
    return model.eval()


def logits(model: PreTrainedModel) -> torch.Tensor:
    return float32_logits(model, ROWS)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # PEFT, of every Conv1D
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", BASES)
def test_the_merged_model_is_the_one_that_plain_peft_makes(kind: str, adapter: str, tmp_path: Path) -> None:
    folder = save_toy(BASES[kind](), tmp_path / "base")
    run = toy_run(tmp_path / "run", folder, adapter=ADAPTERS[adapter])
    result = merge(run, tmp_path / "out")

    peft = PeftModel.from_pretrained(loaded(folder), str(run / "adapter"))
    adapted, unmerged = logits(peft), logits(loaded(folder))
    merged = logits(loaded(tmp_path / "out"))
    oracle = logits(peft.merge_and_unload(safe_merge=True))
    assert (merged - oracle).abs().max() < 1e-5
    assert (merged - adapted).abs().max() < 1e-5
    assert (merged - unmerged).abs().max() > 0.1  # the adapter does something
    assert result.tensors_merged == result.tensors_expected == sum(isinstance(m, FoldedLinear) for m in folded(run))
    assert result.dtype == "float32"
    assert result.max_logit_difference < 1e-5


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def folded(run: Path) -> Iterator[nn.Module]:
    model = load_run(run).model
    assert isinstance(model, PeftModel)
    return iter(fold_and_expect(model, ROWS, torch.float32)[0].values())


def test_only_adapted_weights_change(run: Path, base: Path, tmp_path: Path) -> None:
    merge(run, tmp_path / "out")
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed == {name for name in before if "_proj" in name}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_a_cast_rounds_every_weight_once(adapter: str, dtype: Any, tmp_path: Path, base: Path) -> None:
    run = toy_run(tmp_path / "run", base, adapter=ADAPTERS[adapter])
    exact = merge(run, tmp_path / "exact", dtype="float32")
    cast = merge(run, tmp_path / "cast", dtype=dtype)
    weights, rounded = (load_file(Path(r.out) / "model.safetensors") for r in (exact, cast))
    assert all(torch.equal(weights[name].to(getattr(torch, dtype)), rounded[name]) for name in weights)
    assert json.loads((tmp_path / "cast/config.json").read_text())["dtype"] == dtype
    assert loaded(tmp_path / "cast").dtype == getattr(torch, dtype)
    assert 1e-4 < cast.max_logit_difference < 0.2
    assert exact.rounding_loss < 1e-5 < cast.rounding_loss < 0.2


def test_a_bfloat16_run_merges_to_bfloat16_by_default(tmp_path: Path, base: Path) -> None:
    run = toy_run(tmp_path / "run", base, model={"path": str(base), "dtype": "bfloat16"})
    by_default = merge(run, tmp_path / "out")
    assert by_default.dtype == "bfloat16"
    assert "dtype: bfloat16 (what the run trained in; --dtype float32" in by_default.as_text()
    # float32 keeps the base as training saw it: rounded to bfloat16
    merge(run, tmp_path / "wide", dtype="float32")
    table = "model.embed_tokens.weight"
    stored, trained = (
        load_file(tmp_path / "wide/model.safetensors")[table],
        load_file(base / "model.safetensors")[table],
    )
    assert torch.equal(stored, trained.bfloat16().float())
    assert not torch.equal(stored, trained)


@pytest.mark.parametrize(("kind", "adapter"), [("nf4", "lora"), ("fp4", "lora"), ("nf4", "dora"), ("int8", "lora")])
def test_a_quantised_base_is_merged_as_it_was_trained_on(kind: str, adapter: str, tmp_path: Path, base: Path) -> None:
    run = toy_run(tmp_path / "run", base, adapter=ADAPTERS[adapter], quantization={"kind": kind})
    result = merge(run, tmp_path / "out")
    exact = merge(run, tmp_path / "exact", dtype="float32")
    assert (result.dtype, exact.dtype) == ("bfloat16", "float32")
    assert f"dtype: bfloat16 (the default after training on a base in {kind}; --dtype float32" in result.as_text()
    assert "dtype: float32\n" in exact.as_text()
    assert exact.max_logit_difference < 1e-5 < result.max_logit_difference < 0.2

    merged = loaded(tmp_path / "exact")
    assert "quantization_config" not in json.loads((tmp_path / "exact/config.json").read_text())
    trained = load_run(run).model.train()  # bitsandbytes rounds to bfloat16 in evaluation on some CPUs
    with torch.no_grad():
        quantised, found = (model(input_ids=torch.tensor(ROWS)).logits for model in (trained, merged))
    tolerance = 0.1 if kind == "int8" else 1e-4  # int8 rounds its inputs too
    assert (found - quantised).abs().max() < tolerance

    merge(toy_run(tmp_path / "plain", base, adapter=ADAPTERS[adapter]), tmp_path / "unquantised")
    unquantised = logits(loaded(tmp_path / "unquantised")).view_as(found)
    assert (found - quantised).norm() < 0.5 * (found - unquantised).norm()


def test_nf4_weights_are_dequantised_then_added_then_cast(tmp_path: Path, base: Path) -> None:
    run = toy_run(tmp_path / "run", base, quantization={"kind": "nf4"})
    merge(run, tmp_path / "out")
    recipe = load_run(run).recipe
    assert recipe is not None
    packed = load_base(recipe.model, recipe.quantization, torch.device("cpu")).model
    name = "model.layers.1.mlp.down_proj"
    weight = packed.get_submodule(name).weight
    adapter = load_file(run / "adapter/adapter_model.safetensors")
    down, up = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    expected = (
        dequantize_4bit(weight.data, weight.quant_state).double() + 2.0 * up.double() @ down.double()
    ).bfloat16()
    found = load_file(tmp_path / "out/model.safetensors")[f"{name}.weight"]
    assert (found != expected).float().mean() < 1e-3  # float32 sums may fall on the other side of a tie


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    base = save_toy(toy_qwen2(), tmp_path / "base")
    merge(toy_run(tmp_path / "run", base), tmp_path / "out")
    model = loaded(tmp_path / "out")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert "lm_head.weight" not in load_file(tmp_path / "out/model.safetensors")


def test_a_full_run_is_copied_and_cast(tmp_path: Path, base: Path) -> None:
    run = toy_run(tmp_path / "run", base, adapter={"kind": "full"})
    result = merge(run, tmp_path / "out")
    assert torch.equal(logits(loaded(tmp_path / "out")), logits(loaded(run / "model")))
    assert result.tensors_merged == result.tensors_expected == len(load_file(run / "model/model.safetensors"))
    assert 0 < merge(run, tmp_path / "half", dtype="bfloat16").max_logit_difference < 0.2


def test_a_sharded_base_gives_shards_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = save_toy(toy_llama(), tmp_path / "whole")
    parts = save_toy(toy_llama(), tmp_path / "parts", max_shard_size="20KB")
    assert len(list(parts.glob("*.safetensors"))) > 2
    run = toy_run(tmp_path / "run", parts)
    monkeypatch.setattr(merging, "write_shards", lambda folder, tensors: write_shards(folder, tensors, 30_000))
    merge(run, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    monkeypatch.undo()
    merge(toy_run(tmp_path / "run2", whole), tmp_path / "single")
    assert torch.equal(logits(loaded(tmp_path / "out")), logits(loaded(tmp_path / "single")))


def test_shards_hold_every_tensor_once_and_keep_to_their_limit(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((i + 1, 10), float(i)) for i in range(9)}
    files = write_shards(tmp_path, tensors.items(), limit_bytes=800)
    read = dict(Weights.of(tmp_path).read())
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert all(len(load_file(tmp_path / f)) == 1 or (tmp_path / f).stat().st_size < 800 + 1000 for f in files)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert {path.name for path in tmp_path.glob("*.safetensors")} == set(files)


# ------------------------------------------------------------------ what travels with the weights


def test_template_stop_tokens_and_card_travel_along(tmp_path: Path) -> None:
    model = toy_llama()
    model.generation_config.eos_token_id = [7]
    model.generation_config.temperature, model.generation_config.do_sample = 0.7, True
    base = save_toy(model, tmp_path / "base")
    (base / "LICENSE.txt").write_text("be kind")
    merge(toy_run(tmp_path / "run", base), tmp_path / "out")

    out = tmp_path / "out"
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [4, 7]
    assert generation["temperature"] == 0.7
    chat = [{"role": "user", "content": "hi"}]
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.apply_chat_template(chat, tokenize=False) == toy_tokenizer().apply_chat_template(
        chat, tokenize=False
    )
    assert (out / "LICENSE.txt").read_text() == "be kind"
    assert "folded into the base" in (out / "README.md").read_text()
    verify_folder(out)


def test_the_same_run_merges_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    one, other = (merge(run, tmp_path / name / "model", dtype="bfloat16") for name in ("a", "b"))
    assert one.sha256 == other.sha256
    assert one.sha256 == hashlib.sha256((tmp_path / "a/model/model.safetensors").read_bytes()).hexdigest()
    for path in (tmp_path / "a/model").iterdir():
        assert path.read_bytes() == (tmp_path / "b/model" / path.name).read_bytes()


# ------------------------------------------------------------------ adapters that are not sound


def spoil_with_nan(model: PreTrainedModel) -> None:
    nn.init.constant_(first(model, "lora_A"), float("nan"))


def spoil_with_zero(model: PreTrainedModel) -> None:
    nn.init.zeros_(first(model, "lora_B"))


def first(model: PreTrainedModel, part: str) -> nn.Parameter:
    return next(parameter for name, parameter in model.named_parameters() if part in name)


@pytest.mark.parametrize("spoil", [spoil_with_nan, spoil_with_zero])
def test_an_adapter_that_cannot_be_right_is_refused(
    spoil: Callable[[PreTrainedModel], None], tmp_path: Path, base: Path
) -> None:
    refuse(toy_run(tmp_path / "run", base, tensors=spoil), tmp_path, ModelError)


def test_an_adapter_with_a_missing_or_misshapen_tensor_is_refused(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_run(tmp_path / "run", base)
    path = run / "adapter/adapter_model.safetensors"
    whole = load_file(path)
    name = next(iter(whole))
    for tensors in (
        {key: value for key, value in whole.items() if key != name},
        whole | {name: whole[name][:2].clone()},
        whole | {"base_model.model.extra.lora_A.weight": torch.ones(1)},
    ):
        # what was damaged before it was committed passes the hashes
        monkeypatch.setattr("lorafit.model.adapt.load_file", lambda _, held=tensors: held)
        refuse(run, tmp_path, ModelError)


def test_an_adapter_changed_since_it_was_committed_is_refused(run: Path, tmp_path: Path) -> None:
    path = run / "adapter/adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refuse(run, tmp_path, LorafitError)


def refuse(run: Path, tmp_path: Path, kind: type[LorafitError], **options: Any) -> LorafitError:
    """Merge must fail and leave nothing behind."""
    before = names(tmp_path)
    with pytest.raises(kind) as caught:
        merge(run, tmp_path / "out", **options)
    assert names(tmp_path) == before
    return caught.value


# ------------------------------------------------------------------ the proof can fail


def wrong_scale(self: FoldedLinear) -> torch.Tensor:
    return torch.addmm(self.frozen, self.up, self.down, alpha=1.01 * self.scale).to(self.dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fold_that_is_one_percent_off_is_found(
    dtype: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FoldedLinear, "_folded", wrong_scale)
    error = refuse(run, tmp_path, ModelError, dtype=dtype)
    assert error.exit_code == 4
    assert error.faults[0].code == "E4-FOLD"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("change", [1.01, 0.0], ids=["scaled", "zeroed"])
def test_a_tensor_that_changes_on_its_way_to_the_disk_is_found(
    change: float, dtype: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> list[str]:
        return write_shards(folder, ((n, t * change if n.endswith("1.mlp.up_proj.weight") else t) for n, t in tensors))

    monkeypatch.setattr(merging, "write_shards", faulty)
    assert refuse(run, tmp_path, ModelError, dtype=dtype).faults[0].code == "E4-RELOAD"


def test_a_tensor_that_is_lost_on_its_way_is_found(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> list[str]:
        return write_shards(folder, ((n, t) for n, t in tensors if not n.endswith("1.mlp.up_proj.weight")))

    monkeypatch.setattr(merging, "write_shards", faulty)
    assert refuse(run, tmp_path, ModelError).faults[0].code == "E4-KEYS"


def test_a_merge_that_was_forgotten_is_found(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base written out as it is, in 16 bits, where a loose bound on logits would let it pass."""
    monkeypatch.setattr(Merged, "tensors", lambda self: self.stored.read())
    assert refuse(run, tmp_path, ModelError, dtype="bfloat16").faults[0].code == "E4-RELOAD"


def test_an_adapter_smaller_than_the_last_digit_is_not_rounded_away(tmp_path: Path, base: Path) -> None:
    run = toy_run(tmp_path / "run", base, tensors=lambda model: randomise(model, 1e-5))
    error = refuse(run, tmp_path, ModelError, dtype="bfloat16")
    assert error.faults[0].code == "E4-CAST"
    assert "--dtype float32" in str(error)
    assert merge(run, tmp_path / "out", dtype="float32").max_logit_difference < 1e-5


def test_weights_beyond_float16_are_not_written_as_infinity(tmp_path: Path, base: Path) -> None:
    def spoil(model: PreTrainedModel) -> None:
        first(model, "lora_B").data[0] = 1e6

    run = toy_run(tmp_path / "run", base, tensors=spoil)
    assert refuse(run, tmp_path, ModelError, dtype="float16").exit_code == 4


def test_weights_stored_under_other_names_are_found_or_refused(tmp_path: Path) -> None:
    stored = Weights(tmp_path, {"layers.0.q_proj.weight": "a", "norm.weight": "a", "model.head.weight": "a"})
    body, head = nn.Linear(1, 1), nn.Linear(1, 1)
    assert by_stored_name({"model.layers.0.q_proj": body, "head": head}, stored, "model") == {
        "layers.0.q_proj.weight": body,
        "model.head.weight": head,
    }
    with pytest.raises(ModelError, match="1 of 2"):
        by_stored_name({"model.layers.0.q_proj": body, "model.layers.0.k_proj": head}, stored, "model")


def test_a_base_that_is_stored_quantised_is_refused(tmp_path: Path) -> None:
    base = save_toy(toy_llama(), tmp_path / "base")
    run = toy_run(tmp_path / "run", base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    assert refuse(run, tmp_path, ModelError).faults[0].code == "E4-STORED-QUANTIZED"


# ------------------------------------------------------------------ where it may write


def test_an_existing_folder_is_replaced_by_force_only(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    merge(run, out)  # an empty folder is as good as none
    first_bytes = (out / "model.safetensors").read_bytes()
    with pytest.raises(RecipeError) as caught:
        merge(run, out, dtype="bfloat16")
    assert caught.value.exit_code == 2
    assert (out / "model.safetensors").read_bytes() == first_bytes
    (out / "stale.txt").write_text("x")
    merge(run, out, dtype="bfloat16", force=True)
    assert not (out / "stale.txt").exists()
    assert loaded(out).dtype == torch.bfloat16
    assert names(tmp_path) == ["out", "run"]


def test_a_merge_that_fails_leaves_the_old_model_in_place(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(run, tmp_path / "out")
    held = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(FoldedLinear, "_folded", wrong_scale)
    refuse(run, tmp_path, ModelError, force=True)
    monkeypatch.undo()

    def interrupted(folder: Path, tensors: object) -> list[str]:
        (folder / "model-00001.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(merging, "write_shards", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(run, tmp_path / "out", force=True)
    assert names(tmp_path) == ["out", "run"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == held


KILLED = """
import os, sys
from pathlib import Path
from lorafit.export import merge as merging

def killed(folder, tensors):
    (folder / "model-00001.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), 9)

merging.write_shards = killed
merging.merge(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_kill_leaves_nothing_that_looks_like_a_model_and_the_next_merge_tidies_up(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(run), str(out)], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists()
    assert [name[:5] for name in names(tmp_path)] == [".tmp-", "run"]
    (tmp_path / f".tmp-{'0' * 32}").mkdir()  # somebody else's
    merge(run, out)
    assert names(tmp_path) == [f".tmp-{'0' * 32}", "out", "run"]


def test_a_folder_that_is_being_written_is_left_alone(run: Path, tmp_path: Path) -> None:
    living = tmp_path / f".tmp-{'1' * 32}"
    living.mkdir()
    with being_written(living):
        merge(run, tmp_path / "out")
        assert living.is_dir()


def test_force_replaces_models_only(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    assert refuse(run, tmp_path, SafetyRefusal, force=True).exit_code == 12
    assert (tmp_path / "out/thesis.tex").exists()


@pytest.mark.parametrize("place", ["base", "base/merged", "run", "run/adapter", "run/adapter/merged", ".", "link"])
def test_sources_are_never_written_to(place: str, tmp_path: Path) -> None:
    base = save_toy(toy_llama(), tmp_path / "base")
    run = toy_run(tmp_path / "run", base)
    (tmp_path / "link").symlink_to(base)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SafetyRefusal):
        merge(run, tmp_path / place, force=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_inside_the_run_folder_is_a_good_place(run: Path) -> None:
    assert Path(merge(run, run / "merged").out) == (run / "merged").resolve()


def test_what_is_no_run_is_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ModelError, match="no run folder"):
        merge(base, tmp_path / "out")


# ------------------------------------------------------------------ float32 arithmetic


@pytest.mark.parametrize("kind", BASES)
def test_a_narrow_model_computes_as_its_wide_copy(kind: str) -> None:
    narrow = BASES[kind]().bfloat16()
    found = logits(narrow)
    assert narrow.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert torch.allclose(found, logits(narrow.float()), atol=1e-6)
