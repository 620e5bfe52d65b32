"""The memory model against the real step: every storage of a training step counted, at its birth and at its death.

Sizes depend on shapes and types only, so a CPU gives a card's numbers, once the card's attention kernel is stood in for
by what it keeps.
"""

import contextlib
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lorafit.model import attention
from lorafit.model.adapt import attach
from lorafit.model.batch import DeviceBatch
from lorafit.model.fast_linear import take_fast_linears
from lorafit.model.loss import summed_loss
from lorafit.model.memory import recompute_activations
from lorafit.plan.memory import WORKSPACE_BYTES, estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.recipe.adapters import Dora, Full, Lora
from lorafit.recipe.quantization import Unquantized

TOKENS = 128
SIZES = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 512,
}  # fmt: skip


class Storages(TorchDispatchMode):
    """Counts the bytes of all live storages made while it is on, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self.live: set[int] = set()
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.live:
            self.live.add(key)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.live.discard(key)
        self.bytes -= size


class Kernel(torch.autograd.Function):
    """A fused attention kernel by its memory: keeps inputs, output and log-sums; its backward adds up in float32."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out, sums = torch.zeros_like(query), torch.zeros(query.shape[1], query.shape[0])
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _, sums = ctx.saved_tensors
        summed = torch.zeros(query.shape), torch.zeros_like(sums)
        del summed
        return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_on_a_card(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: object, **__: object) -> Any:
        if torch.is_autocast_enabled("cpu"):
            query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
        return Kernel.apply(query, key, value)

    monkeypatch.setattr(attention, "_has_varlen_kernel", lambda query, dropout: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", as_on_a_card)


def traced_peak(question: MemoryQuestion, config: dict[str, Any]) -> int:
    """Bytes at the peak of a second step, when the optimizer's states exist."""
    dtype = getattr(torch, question.dtype)
    storages = Storages()
    with storages:
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[config["model_type"]](**config, pad_token_id=None))
        model = model.to(dtype).requires_grad_(False)
        attention.register()
        model.set_attn_implementation(attention.FUSED)
        model = attach(model, question.adapter, "toy", 0).model
        take_fast_linears(model)
        if question.checkpointing:
            recompute_activations(model)
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
        for _ in range(2):
            storages.peak = 0
            with torch.autocast("cpu", dtype) if dtype != torch.float32 else contextlib.nullcontext():
                loss = summed_loss(model, _row())
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return storages.peak


def _row() -> DeviceBatch:
    return DeviceBatch(
        input_ids=torch.zeros(1, TOKENS, dtype=torch.long),
        position_ids=torch.arange(TOKENS)[None],
        boundaries=torch.tensor([0, TOKENS], dtype=torch.int32),
        lengths=(TOKENS,),
        predicting=torch.arange(TOKENS),
        targets=torch.zeros(TOKENS, dtype=torch.long),
    )


def ask(config: dict[str, Any], **settings: Any) -> MemoryQuestion:
    question = MemoryQuestion(shape_from_config(config, "toy"), Lora(), Unquantized(), max_length=TOKENS)
    return replace(question, accumulation=False, **settings)


SETTINGS = {
    "lora": {},
    "lora, activations kept": {"checkpointing": False},
    "lora in float32": {"dtype": "float32", "checkpointing": False},
    "attention only": {"adapter": Lora(target_modules="attention"), "checkpointing": False},
    "dora": {"adapter": Dora()},
    "dora, activations kept": {"adapter": Dora(), "checkpointing": False},
    "full": {"adapter": Full()},
    "full, activations kept": {"adapter": Full(), "checkpointing": False},
}


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_every_way_to_train_a_llama(settings: dict[str, Any]) -> None:
    config = SIZES | {"model_type": "llama"}
    question = ask(config, **settings)
    found = estimate(question).peak_bytes - WORKSPACE_BYTES
    assert found == pytest.approx(traced_peak(question, config), rel=0.045)  # of a toy: small tensors weigh


FAMILIES = {
    "qwen2": {}, "qwen3": {"head_dim": 64}, "gemma": {"head_dim": 64}, "gemma2": {"head_dim": 64},
    "gemma3_text": {"head_dim": 64}, "phi3": {}, "olmo2": {}, "granite": {}, "glm4": {"head_dim": 32}, "cohere": {},
}  # fmt: skip


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("checkpointing", [True, False], ids=["recomputed", "kept"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, checkpointing: bool) -> None:
    config = SIZES | {"model_type": family} | FAMILIES[family]
    question = ask(config, checkpointing=checkpointing)
    found = estimate(question).peak_bytes - WORKSPACE_BYTES
    assert found == pytest.approx(traced_peak(question, config), rel=0.06)
