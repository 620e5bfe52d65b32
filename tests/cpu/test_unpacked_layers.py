"""Layers of a 4-bit base that stay unpacked give the numbers of packed ones, bit for bit."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from conftest import write_recipe
from safetensors.torch import load_file
from test_run import lines
from test_step import stops_at
from toys import randomise, save_toy, toy_gpt2, toy_llama, toy_qwen2
from transformers import PreTrainedModel

from lorafit.model.adapt import attach
from lorafit.model.fast_linear import take_fast_linears
from lorafit.model.init_from import WEIGHTS
from lorafit.model.load import load_base
from lorafit.model.unpacked import Unpacked, keep_unpacked
from lorafit.recipe.adapters import Dora, Lora
from lorafit.recipe.quantization import Fp4, Nf4
from lorafit.recipe.schema import Dtype, ModelSpec
from lorafit.train import run
from lorafit.train.course import Course
from lorafit.train.doctor import diagnose
from lorafit.train.sizes import unpacked_as_before
from lorafit.train.start import start

CPU = torch.device("cpu")


def trained(
    folder: Path, dtype: Dtype, quantization: Nf4 | Fp4, adapter: Lora | Dora, layers: int
) -> tuple[torch.Tensor, ...]:
    """Give the logits and the gradients of a pass, in evaluation mode and in training."""
    base = load_base(ModelSpec(path=str(folder), dtype=dtype), quantization, CPU)
    packed = sum(isinstance(module, Linear4bit) for module in base.model.modules())
    keep_unpacked(base.model, layers)
    left = sum(isinstance(module, Linear4bit) for module in base.model.modules())
    assert (packed - left) * 2 == packed * layers
    model = attach(base.model, adapter, "base", 0).model
    take_fast_linears(model)
    randomise(model)
    ids = torch.arange(5, 25)[None]
    with torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else nullcontext():
        with torch.no_grad():
            seen = model.eval()(ids).logits
        torch.manual_seed(3)
        logits = model.train()(ids).logits
    logits.float().pow(2).sum().backward()
    return seen, logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("quantization", [Nf4(), Nf4(double_quant=False), Fp4()], ids=["nf4", "single", "fp4"])
@pytest.mark.parametrize("adapter", [Lora(rank=4, dropout=0.1), Dora(rank=4)], ids=["lora", "dora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [toy_llama, toy_qwen2, toy_gpt2])  # plain, with biases, transposed
def test_bit_for_bit(
    make: Callable[[], PreTrainedModel], dtype: Dtype, quantization: Nf4 | Fp4, adapter: Lora | Dora, tmp_path: Path
) -> None:
    folder = save_toy(make(), tmp_path / "toy")
    packed = trained(folder, dtype, quantization, adapter, 0)
    assert len(packed) > 10
    for layers in (1, 2):
        unpacked = trained(folder, dtype, quantization, adapter, layers)
        assert all(torch.equal(a, b) for a, b in zip(packed, unpacked, strict=True))


def test_no_packed_weight_is_left_beside_the_unpacked(tiny_model: Path) -> None:
    base = load_base(ModelSpec(path=str(tiny_model)), Nf4(), CPU)
    keep_unpacked(base.model, 1)
    first, second = base.model.model.layers
    assert {type(module) for module in first.modules() if isinstance(module, torch.nn.Linear)} == {Unpacked}
    assert not any(getattr(p, "quant_state", None) for p in first.parameters())
    assert all(hasattr(p, "quant_state") for name, p in second.named_parameters() if "proj" in name)


@pytest.mark.parametrize("changes", [{"model__dtype": "bfloat16", "adapter__dropout": 0.1}], ids=str)
def test_a_run_is_the_same_run(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    monkeypatch.setattr(run, "keep_unpacked", lambda model, count: (counts.append(count), keep_unpacked(model, count)))
    for kept in ("none", "auto"):
        quantization = {"kind": "nf4", "keep_unpacked": kept}
        loaded = write_recipe(tmp_path, tiny_model, quantization=quantization, **changes)
        start(loaded, tmp_path / kept, "new")
    assert counts == [0, 2]
    none, auto = (tmp_path / kept for kept in ("none", "auto"))
    assert [line["loss"] for line in lines(none / "metrics.jsonl")] == [
        line["loss"] for line in lines(auto / "metrics.jsonl")
    ]
    weights = [load_file(root / "adapter" / WEIGHTS) for root in (none, auto)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_goes_on_with_the_layers_that_it_had(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(run, "keep_unpacked", lambda model, count: counts.append(count))
    changes = {"data__validation": None, "training__max_steps": 3, "training__save_every": 1}
    loaded = write_recipe(tmp_path, tiny_model, quantization={"kind": "nf4"}, **changes)
    settle, choose = Course._settle, run.choose_sizes

    def with_room_for(layers: int) -> None:
        monkeypatch.setattr(run, "choose_sizes", lambda *given: unpacked_as_before(choose(*given), layers))

    monkeypatch.setattr(Course, "_settle", stops_at(2))
    with_room_for(1)
    with pytest.raises(KeyboardInterrupt):
        start(loaded, tmp_path / "run", "new")
    monkeypatch.setattr(Course, "_settle", settle)
    with_room_for(0)  # another process holds the rest
    start(loaded, tmp_path / "run", "resume")
    start(loaded, tmp_path / "run", "fresh")
    assert counts == [1, 1, 0]


@pytest.mark.parametrize(("kept", "what"), [("none", "as the recipe says"), ("auto", "unpacked once")])
def test_it_is_said(tiny_model: Path, tmp_path: Path, kept: str, what: str) -> None:
    loaded = write_recipe(tmp_path, tiny_model, quantization={"kind": "nf4", "keep_unpacked": kept})
    (said,) = (f.what for f in diagnose(loaded).findings if f.name == "4-bit base")
    assert what in said
