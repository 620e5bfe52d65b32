"""Norms and gated MLPs that keep only what they read: bit for bit the model's own, and next to nothing kept."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import Gemma2Config, LlamaConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP, Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from lorafit.model.adapt import attach
from lorafit.model.fast_linear import take_fast_linears
from lorafit.model.lean import take_lean_blocks
from lorafit.recipe.adapters import Lora
from tests.cpu.toys import kept_storages, toy_llama

SIZES: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 40, "vocab_size": 8, "num_attention_heads": 2}


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "norm":
        module: nn.Module = Qwen3RMSNorm(24)
        nn.init.normal_(module.weight)
        return module
    config = Gemma2Config(**SIZES) if kind == "gelu" else LlamaConfig(**SIZES)
    return {"silu": LlamaMLP, "gelu": Gemma2MLP, "renamed": Qwen2MLP}[kind](config)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["norm", "silu", "gelu", "renamed"]),
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_values_are_the_models_own_and_gradients_as_near_to_float32(
    kind: str, shape: list[int], dtype: torch.dtype, size: float
) -> None:
    own = made(kind).to(dtype).requires_grad_(False)
    lean = copy.deepcopy(own)
    take_lean_blocks(lean)
    assert "forward" in vars(lean)
    x, received = torch.randn(2, *shape, 24).to(dtype)
    outs, gradients = [], []
    for module, wide in ((lean, dtype), (own, dtype), (copy.deepcopy(own).float(), torch.float32)):
        leaf = (x * size).to(wide).requires_grad_()
        outs.append(module(leaf))
        gradients.append(torch.autograd.grad(outs[-1], leaf, received.to(wide))[0].float())
    assert torch.equal(outs[0], outs[1])
    ours, theirs, exact = gradients
    loose = 1e-5 if dtype == torch.float32 else 1e-2
    assert (ours - exact).norm() <= 2 * (theirs - exact).norm() + loose * exact.norm() + 1e-12
    with torch.no_grad():
        assert torch.equal(lean(x), own(x))


@pytest.mark.parametrize("norm", [Gemma2RMSNorm(8), Olmo2RMSNorm(8), nn.RMSNorm(8), nn.LayerNorm(8)])
def test_norms_that_compute_otherwise_stay_as_they_are(norm: nn.Module) -> None:
    take_lean_blocks(norm.requires_grad_(False))
    assert "forward" not in vars(norm)


def test_trained_norms_and_models_beside_the_fast_path_stay_as_they_are() -> None:
    trained = LlamaRMSNorm(8)
    take_lean_blocks(trained)
    assert "forward" not in vars(trained)
    both = attach(toy_llama().requires_grad_(False), Lora(), "toy", 0).model
    both.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight.requires_grad_(True)
    for model in (both, toy_llama()):
        take_fast_linears(model)
        assert not any(
            "forward" in vars(module) for module in model.modules() if isinstance(module, LlamaRMSNorm | LlamaMLP)
        )


class Block(nn.Module):
    """What a decoder's second half is."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = made("norm"), made("silu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.norm(x))


def adapted() -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(
        r=2, target_modules=["gate_proj", "up_proj", "down_proj"], init_lora_weights=False, lora_dropout=0.2
    )
    return get_peft_model(Block().requires_grad_(False), config).train()


def test_a_block_keeps_its_input_gate_and_up() -> None:
    model = adapted()
    take_fast_linears(model)
    x = torch.randn(5, 24, requires_grad=True)
    with kept_storages(model) as found:
        out = model(x)
    assert out.requires_grad
    assert sum(found.values()) == 4 * 5 * (24 + 1 + 2 * 40 + 3 * 2)  # x, its scale, gate and up, three times A x


def test_what_is_remade_serves_every_reader_of_every_backward() -> None:
    slow = adapted()
    fast = copy.deepcopy(slow)
    take_fast_linears(fast)
    grads = []
    for model in (fast, slow):
        x = torch.randn(5, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
        torch.manual_seed(2)
        out = model(x)
        out.sum().backward(retain_graph=True)
        (out**2).sum().backward()
        grads.append([x.grad, *(p.grad for p in model.parameters() if p.requires_grad)])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_whole_model_keeps_little_more_than_half() -> None:
    def bytes_kept(fast: bool) -> int:
        model = attach(toy_llama().requires_grad_(False), Lora(), "toy", 0).model.train()
        if fast:
            take_fast_linears(model)
        found: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            out = model(input_ids=torch.zeros(1, 200, dtype=torch.long), use_cache=False)
        assert out.logits.requires_grad
        weights = sum(p.nbytes for p in model.parameters())
        return sum(found.values()) - weights

    assert bytes_kept(True) < 0.75 * bytes_kept(False)
