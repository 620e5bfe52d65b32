"""What only a card can show: the variable-length kernel, paged moments, and a 4-bit run with its peak."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lorafit.model import attention, offload
from lorafit.model.trained import Trained
from lorafit.recipe.schema import TrainingSpec
from lorafit.train.optimizer import build_optimizer, optimizer_tensors, restore_optimizer

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("kv_heads", [8, 2])
def test_the_varlen_kernel_equals_attention_document_by_document(kv_heads: int, window: int | None) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(1, heads, 48, 64) for heads in (8, kv_heads, kv_heads)]
    query, key, value = (
        torch.randn(s, generator=generator, device="cuda", dtype=torch.bfloat16, requires_grad=True) for s in shapes
    )
    bounds = torch.tensor([0, 20, 29, 48], device="cuda", dtype=torch.int32)
    fast = attention._varlen(query, key, value, bounds, 20, None, window)
    parts = [
        attention._explicit(q, k, v, None, 0.0, window, softcap=None, sinks=None)
        for q, k, v in attention._documents(bounds, query, key, value)
    ]
    slow = torch.cat(parts, dim=2).transpose(1, 2)
    torch.testing.assert_close(fast, slow, rtol=2e-2, atol=2e-2)
    upstream = torch.randn_like(slow)
    for one, other in zip(
        torch.autograd.grad(fast, [query, key, value], upstream),
        torch.autograd.grad(slow, [query, key, value], upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("name", ["paged_adamw", "paged_adamw_8bit"])
def test_paged_moments_survive_a_checkpoint(name: str) -> None:
    device = torch.device("cuda")

    def steps(optimizer: torch.optim.Optimizer, trained: Trained, numbers: range) -> None:
        parameter = trained.named["w"]
        for number in numbers:
            parameter.grad = torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(number), device="cpu"
            ).cuda()
            optimizer.step()

    training = TrainingSpec(optimizer=name, learning_rate=0.01)
    straight = Trained({"w": nn.Parameter(torch.ones(512, 512, device=device))}, flat=False)
    optimizer = build_optimizer(straight, training, device)
    steps(optimizer, straight, range(3))
    tensors = optimizer_tensors(optimizer, straight)
    resumed = Trained({"w": nn.Parameter(straight.named["w"].detach().clone())}, flat=False)
    steps(optimizer, straight, range(3, 6))
    again = build_optimizer(resumed, training, device)
    restore_optimizer(again, resumed, tensors)
    steps(again, resumed, range(3, 6))
    assert torch.equal(straight.named["w"], resumed.named["w"])


@pytest.mark.multi_gpu
@pytest.mark.parametrize("kind", ["none", "nf4"])
def test_a_base_split_over_two_cards_trains_as_a_whole_one(kind: str, tmp_path: Path) -> None:
    """What gloo on a CPU cannot show: that NCCL gathers packed weights as they are."""
    rows = tmp_path / "train.jsonl"
    rows.write_text((json.dumps({"text": "The captain of a ship sails to Oslo."}) + "\n") * 8, encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    training = {"max_steps": 6, "global_batch_size": 5, "micro_batch_size": 2, "gradient_checkpointing": "full"}
    shape = {"version": 1, "model": {"path": "builtin:tiny"}, "data": {"train": str(rows)}, "training": training}
    recipe.write_text(json.dumps(shape | {"quantization": {"kind": kind}}), encoding="utf-8")
    losses = {}
    for sharding in ("none", "full"):
        out = tmp_path / sharding
        words = [sys.executable, "-m", "lorafit", "train", str(recipe), "--gpus", "2", "--out", str(out)]
        subprocess.run([*words, "--set", f"training.sharding={sharding}"], check=True)
        losses[sharding] = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert losses["full"] == pytest.approx(losses["none"], rel=1e-3)


def test_inputs_of_layers_on_the_host_come_back_as_they_went() -> None:
    """What the CPU has not: copies beside the work, on a stream of their own."""
    layers = nn.ModuleList(nn.Sequential(nn.Linear(512, 512), nn.GELU()) for _ in range(12)).cuda()
    away = offload.Offloading(torch.device("cuda"))
    x = torch.randn(4096, 512, device="cuda", requires_grad=True)
    found = []
    for keep in (partial(checkpoint, use_reentrant=False), away):
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            out = x
            for layer in layers:
                out = keep(layer, out)
            gradients = torch.autograd.grad(out.pow(2).sum(), [x, *layers.parameters()])
        found.append((gradients, torch.cuda.max_memory_allocated()))
    (full, more), (offloaded, less) = found
    assert all(torch.equal(a, b) for a, b in zip(full, offloaded, strict=True))
    assert less <= more - 8 * x.nbytes
