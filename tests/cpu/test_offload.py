"""Inputs of recomputed layers on the host: the gradients of full recomputation, and nothing left behind."""

import gc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_recipe
from test_run import lines
from toys import randomise, toy_gpt2, toy_llama
from transformers import LlamaConfig, PreTrainedModel

from lorafit.model import offload
from lorafit.model.adapt import attach
from lorafit.model.fast_linear import take_fast_linears
from lorafit.model.memory import recompute_activations
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.recompute import in_words, with_least_recomputation
from lorafit.plan.shapes import shape_by_name
from lorafit.plan.vram import answer
from lorafit.recipe.adapters import Lora
from lorafit.recipe.quantization import Nf4
from lorafit.train.doctor import diagnose
from lorafit.train.sizes import choose_sizes
from lorafit.train.start import start

ASKED = MemoryQuestion(shape_by_name("llama-3-8b").shape, Lora(), Nf4(), max_length=4096)
LAYERS = len(ASKED.shape.layers)


class Host:
    """A host that the CPU's tensors go to as a card's would: copied, and gone from where they were."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sent: list[torch.Tensor] = []
        self.fetched = 0
        patch.setattr(offload, "to_host", self.send)
        patch.setattr(offload, "to_device", self.fetch)

    def send(self, x: torch.Tensor, stream: object) -> torch.Tensor:
        self.sent.append(x.clone())
        return self.sent[-1]

    def fetch(self, host: torch.Tensor, device: torch.device, stream: object) -> tuple[torch.Tensor, None]:
        self.fetched += 1
        return host.clone(), None


def prepared(make: Callable[[], PreTrainedModel], layers: int | None, *, offloaded: bool) -> PreTrainedModel:
    model = attach(make().requires_grad_(False), Lora(rank=4, dropout=0.1), "base", 0).model
    take_fast_linears(model)
    randomise(model)
    recompute_activations(model, layers, offloaded=offloaded)
    return model.train()


def gradients(model: PreTrainedModel, dtype: torch.dtype) -> list[torch.Tensor]:
    """Two passes, with an evaluation between them."""
    torch.manual_seed(3)
    for ids in (torch.arange(5, 25)[None], torch.arange(30, 60)[None]):
        with torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
            loss = model(ids).logits.float().pow(2).sum()
            with torch.no_grad():
                model(ids)
        loss.backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def toy_llama_of_four() -> PreTrainedModel:
    return toy_llama(num_hidden_layers=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("make", "depth"), [(toy_llama_of_four, 4), (toy_gpt2, 2)])
def test_exact_gradients(
    make: Callable[[], PreTrainedModel], depth: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = gradients(prepared(make, None, offloaded=False), dtype)
    on_cpu = gradients(prepared(make, None, offloaded=True), dtype)
    host = Host(monkeypatch)
    offloaded = gradients(prepared(make, None, offloaded=True), dtype)
    assert len(full) > 10
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(full, offloaded, on_cpu, strict=True))
    assert len(host.sent) == 2 * (depth - 1), "of each pass all but the last, which the backward wants at once"
    assert host.fetched == len(host.sent)


def test_some_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    full = gradients(prepared(toy_llama_of_four, 3, offloaded=False), torch.float32)
    host = Host(monkeypatch)
    offloaded = gradients(prepared(toy_llama_of_four, 3, offloaded=True), torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(full, offloaded, strict=True))
    assert len(host.sent) == 2 * 2


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    Host(monkeypatch)
    model = prepared(toy_llama_of_four, None, offloaded=True)
    gradients(model, torch.float32)
    lost = model(torch.arange(5, 25)[None]).logits.sum()  # a pass that never has its backward
    assert any(type(each) is offload.Away for each in gc.get_objects())
    del lost
    gc.collect()
    assert not any(type(each) is offload.Away for each in gc.get_objects())


def test_what_comes_back_is_fetched_a_layer_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    host, seen = Host(monkeypatch), []
    model = prepared(toy_llama_of_four, None, offloaded=True)
    for layer in model.get_base_model().model.layers:
        layer.self_attn.register_forward_pre_hook(lambda *_: seen.append(host.fetched))
    model(torch.arange(5, 25)[None]).logits.sum().backward()
    assert seen == [0, 0, 0, 0, *(1, 2, 3, 3)]


def test_it_is_the_last_rung() -> None:
    full = estimate(ASKED).peak_bytes
    found = with_least_recomputation(ASKED, lambda asked: estimate(asked).peak_bytes < full)
    assert found.offloaded
    assert found.recomputed == LAYERS
    assert not with_least_recomputation(ASKED, lambda asked: estimate(asked).peak_bytes <= full).offloaded
    assert not with_least_recomputation(ASKED, lambda _: False, has_host=False).offloaded
    assert in_words(None, 32, offloaded=True) == "every layer recomputed, from the host"


@pytest.mark.parametrize("changes", [{}, {"micro_batch_size": 4}], ids=str)
def test_bytes_move_from_the_card_to_the_host(changes: dict[str, Any]) -> None:
    full = replace(ASKED, **changes)
    away, stream = estimate(replace(full, offloaded=True)), full.tokens * full.shape.hidden_size * 2
    assert away.host_bytes == LAYERS * stream
    assert estimate(full).host_bytes == 0
    saved = estimate(full).phases["backward of a layer"] - away.phases["backward of a layer"]
    assert (LAYERS - 2) * stream <= saved <= LAYERS * stream
    assert estimate(full).phases["loss, backward"] - away.phases["loss, backward"] == (LAYERS - 1) * stream


def test_estimate_vram_says_so(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "x", training__gradient_checkpointing="offloaded").recipe
    asked = {"rank": None, "target_modules": None, "max_length": 4096, "micro_batch_size": 1, "gpus": 1, "gpu": None}
    found = answer(recipe, model="8b", method="qlora", **asked)  # type: ignore[arg-type]
    (host,) = (part for part in found.outside if part.name == "host memory of a step")
    assert host.bytes == LAYERS * 4096 * 4096 * 2
    assert "from the host" in found.as_text()
    assert found.as_json()["offloaded"] is True
    assert not any("offloaded" in advice.change for advice in found.advice)


@pytest.mark.parametrize(("host_gib", "offloaded"), [(64, True), (1, False), (0, False)])
def test_auto_asks_whether_the_host_has_room(tmp_path: Path, host_gib: int, offloaded: bool) -> None:
    shape = LlamaConfig(vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_key_value_heads=8)
    recipe = write_recipe(tmp_path, "x", data__max_length=65_536, quantization={"kind": "nf4"}).recipe
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"micro_batch_size": 1})})
    sizes = choose_sizes(recipe, shape.to_dict(), torch.bfloat16, 1, 30 * 2**30, 0, host_gib * 2**30)
    assert sizes.offloaded is offloaded
    assert sizes.expected is not None
    assert (sizes.expected.peak_bytes <= sizes.usable_bytes) is offloaded


def test_a_run_is_the_same_run(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kept in ("full", "offloaded"):
        loaded = write_recipe(tmp_path, tiny_model, training__gradient_checkpointing=kept, adapter__dropout=0.1)
        start(loaded, tmp_path / kept, "new")
    losses = [[line["loss"] for line in lines(tmp_path / kept / "metrics.jsonl")] for kept in ("full", "offloaded")]
    assert losses[0] == losses[1]
    assert "from inputs that wait on the host: as the recipe says" in capsys.readouterr().err
    assert any("wait on the host" in finding.what for finding in diagnose(loaded).findings)
