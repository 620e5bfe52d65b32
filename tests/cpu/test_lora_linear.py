"""The LoRA linear with a backward of its own against PEFT's: gradients, random numbers, what is kept, what is saved."""

import copy
import statistics
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorafit.model.adapt import attach, load_adapter, save_adapter
from lorafit.model.documents import use_flat_rows
from lorafit.model.fast_linear import slow_linears, take_fast_linears
from lorafit.model.lora_linear import Update, frozen_weight, lora_linear
from lorafit.model.loss import summed_loss, target_logits
from lorafit.model.memory import recompute_activations
from lorafit.recipe.adapters import Dora, Lora
from tests.cpu.test_head_loss import row
from tests.cpu.toys import kept_storages, randomise, toy_gpt2, toy_llama, toy_qwen2

BASES = ("plain", "transposed", "nf4", "fp4", "int8")


class Two(nn.Module):
    """Two linears that read the same input, as gate and up do, and a way on from both."""

    def __init__(self, base: str, width: int, out: int, bias: bool) -> None:
        super().__init__()
        self.first, self.second = (made(base, width, out, bias) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) * torch.tanh(self.second(x))


def made(base: str, width: int, out: int, bias: bool) -> nn.Module:
    """A frozen linear of random weights."""
    if base == "transposed":
        return Conv1D(out, width)
    linear = nn.Linear(width, out, bias=bias)
    return linear if base == "plain" else packed(base, linear)


def packed(base: str, linear: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    settings: dict[str, Any] = {"bias": linear.bias is not None}
    if base == "int8":
        layer: Any = Linear8bitLt(linear.in_features, linear.out_features, has_fp16_weights=False, **settings)
        layer.weight = Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        layer = Linear4bit(linear.in_features, linear.out_features, compute_dtype=torch.float32, **settings)
        layer.weight = Params4bit(linear.weight.data, requires_grad=False, quant_type=base)
        layer.support_avx512bf16_for_cpu = False
    layer.bias = linear.bias
    return layer.to("cpu")


def adapted(model: nn.Module, seed: int = 0, **changes: Any) -> nn.Module:
    """PEFT's model, B not zero."""
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["first", "second"]} | changes)
    model = get_peft_model(model.requires_grad_(False), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.train()


def fast_copy(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    take_fast_linears(model)
    return model


def gradients(model: nn.Module, x: torch.Tensor, *, recomputed: bool = False, half: bool = False) -> list[torch.Tensor]:
    """Output, and the gradients of the input and of every trained parameter."""
    x = x.clone().requires_grad_()
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
        out = checkpoint(model, x, use_reentrant=False) if recomputed else model(x)
        after = torch.rand(1)  # what comes next is drawn from where PEFT leaves the generator
        loss = (out.float() * torch.linspace(-1, 1, out.shape[-1])).sum()
    loss.backward()
    found = [p.grad for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    assert found
    assert all(g is not None for g in [x.grad, *found])
    return [out.detach(), after, x.grad, *found]


def assert_near(found: list[torch.Tensor], apart: list[float], exact: list[torch.Tensor], loose: float) -> None:
    """As near to float32 as `loose` is, or, where terms cancel, twice as far `apart` as PEFT comes."""
    for ours, far, true in zip(found, apart, exact, strict=True):
        assert (ours - true).norm() <= 2 * far + loose * true.norm()


def blurred(model: nn.Module, x: torch.Tensor, *, half: bool) -> list[float]:
    """How far PEFT comes off its float32 when x and the weights move by what the dtype of its products rounds away."""
    exact, apart = gradients(model, x), [0.0] * 99
    for seed in range(8):
        near = copy.deepcopy(model)
        torch.manual_seed(seed)
        for value in (x_near := x.clone(), *(p.data for p in near.parameters() if p.is_floating_point())):
            value.mul_(1 + (2.0**-8 if half else 2.0**-23) * (2 * torch.rand_like(value) - 1))
        moved = gradients(near, x_near, half=half)
        apart = [max(far, float((a - b).norm())) for far, a, b in zip(apart, moved, exact, strict=False)]
    return apart


def assert_close(found: list[torch.Tensor], wanted: list[torch.Tensor], loose: float) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert (ours.double() - theirs.double()).norm() <= loose * theirs.double().norm() + 1e-12


@settings(max_examples=60, deadline=None)
@given(
    base=st.sampled_from(BASES),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    width=st.sampled_from([8, 24, 64]),
    out=st.sampled_from([8, 40, 64]),
    rank=st.sampled_from([1, 3, 8]),
    dropout=st.sampled_from([0.0, 0.1, 0.5]),
    bias=st.booleans(),
    rslora=st.booleans(),
    dora=st.booleans(),
    recomputed=st.booleans(),
    half=st.booleans(),
)
def test_gradients_are_those_of_peft(
    base: str, shape: list[int], width: int, out: int, rank: int, dropout: float, bias: bool, rslora: bool,
    dora: bool, recomputed: bool, half: bool,
) -> None:  # fmt: skip
    dora = dora and base != "int8"
    torch.manual_seed(len(shape) + width + out)
    model = Two(base, width, out, bias)
    config = {
        "r": rank,
        "lora_dropout": dropout,
        "use_rslora": rslora,
        "use_dora": dora,
        "fan_in_fan_out": base == "transposed",
    }
    slow = adapted(model, **config)
    fast = fast_copy(slow)
    assert not slow_linears(fast)
    x = torch.randn(*shape, width)
    found, wanted = (gradients(each, x, recomputed=recomputed, half=half) for each in (fast, slow))
    assert torch.equal(found[1], wanted[1])
    assert half or all(ours.dtype == theirs.dtype for ours, theirs in zip(found, wanted, strict=True))
    assert_near(found, blurred(slow, x, half=half), gradients(slow, x), 1e-2 if half else 1e-5)


def test_one_token_whose_terms_cancel_in_float32() -> None:
    compare: Any = test_gradients_are_those_of_peft.hypothesis.inner_test  # type: ignore[attr-defined]
    compare("transposed", [1, 1, 1], 24, 64, 1, 0.5, False, False, False, False, False)


def test_one_token_whose_terms_cancel_under_dropout_in_16_bits() -> None:
    compare: Any = test_gradients_are_those_of_peft.hypothesis.inner_test  # type: ignore[attr-defined]
    compare("transposed", [1], 8, 8, 1, 0.1, False, False, False, False, True)


def test_16_bits_come_as_near_to_float32_as_those_of_peft() -> None:
    x = torch.randn(4, 64)
    ours, theirs = [], []
    for seed in range(20):
        slow = adapted(Two("plain", 64, 64, False), seed=seed, lora_dropout=0.1)
        exact = gradients(slow, x)
        for model, errors in ((fast_copy(slow), ours), (slow, theirs)):
            errors += [relative(*pair) for pair in zip(gradients(model, x, half=True), exact, strict=True)]
    assert statistics.fmean(ours) <= statistics.fmean(theirs)


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradient_by_differences(dropout: float) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(5, 4, dtype=torch.float64).requires_grad_(False)
    x, a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5), (2, 5), (4, 2)))

    def function(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return lora_linear(x, linear, Update(a, b, 1.5, dropout))

    assert gradcheck(function, (x, a, b))
    assert gradcheck(lambda a, b: function(x.detach(), a, b), (a, b))
    assert gradcheck(lambda x: function(x, a.detach(), b), (x,))


@pytest.mark.parametrize("base", BASES)
def test_weight_is_what_the_layer_multiplies_by(base: str) -> None:
    torch.manual_seed(0)
    layer = made(base, 64, 48, bias=True)
    x = torch.randn(3, 64)
    out = layer(x)
    expected = x @ frozen_weight(layer, torch.float32).t() + layer.bias
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def kept(model: nn.Module, x: torch.Tensor, half: bool = False) -> dict[int, int]:
    """Storages that the backward keeps besides parameters, and their bytes."""
    with kept_storages(model) as found, torch.autocast("cpu", torch.bfloat16, enabled=half):
        held = [layer(x) for layer in (model.first, model.second)]
    assert all(out.requires_grad for out in held)
    return found


@pytest.mark.parametrize("base", ["plain", "nf4", "int8"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_two_that_read_the_same_keep_it_once_and_nothing_else(base: str, half: bool, dropout: float) -> None:
    model = fast_copy(adapted(Two(base, 64, 128, False), lora_dropout=dropout)).base_model.model
    x = torch.randn(32, 64, dtype=torch.bfloat16 if half else torch.float32, requires_grad=True)
    size = x.element_size()
    assert sum(kept(model, x, half).values()) == 32 * 64 * size + 2 * 32 * 4 * size


MODELS = {"llama": toy_llama, "qwen2": toy_qwen2, "gpt2": toy_gpt2}


def whole(
    kind: str, *, fast: bool, half: bool = False, recomputed: bool = False, dora: bool = False, **adapter: Any
) -> PreTrainedModel:
    base = MODELS[kind]().to(torch.bfloat16 if half else torch.float32).requires_grad_(False)
    use_flat_rows(base, "auto")
    model = attach(base, (Dora if dora else Lora)(**adapter), "toy", 0).model
    randomise(model)
    if fast:
        take_fast_linears(model)
        assert not slow_linears(model)
    if recomputed:
        recompute_activations(model)
    return model.train()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(("dora", "dropout"), [(False, 0.1), (True, 0.0), (True, 0.1)])
def test_whole_models_on_packed_rows(kind: str, half: bool, recomputed: bool, dora: bool, dropout: float) -> None:
    def step(fast: bool, half: bool = half) -> list[torch.Tensor]:
        model = whole(kind, fast=fast, half=half, recomputed=recomputed, dora=dora, dropout=dropout)
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = summed_loss(model, row())
        loss.backward()
        return [loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]

    if half:
        peft, exact = step(False), step(False, half=False)
        assert_near(step(True), [float((a - b).norm()) for a, b in zip(peft, exact, strict=True)], exact, 1e-2)
    else:
        assert_close(step(True), step(False), 1e-5)


def curve(fast: bool) -> tuple[list[float], PreTrainedModel]:
    model = whole("llama", fast=fast, dropout=0.05)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for step in range(50):
        torch.manual_seed(step)
        loss = summed_loss(model, row(step % 5))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model


def test_fifty_steps_and_the_adapter_that_comes_of_them(tmp_path: Path) -> None:
    (ours, fast), (theirs, slow) = curve(True), curve(False)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours[-1] < ours[0] / 2
    folders = [tmp_path / "fast", tmp_path / "slow"]
    for model, folder in zip((fast, slow), folders, strict=True):
        folder.mkdir()
        save_adapter(model, folder, {})
    assert [type(m) for m in fast.modules()] == [type(m) for m in slow.modules()]
    assert (folders[0] / "adapter_config.json").read_bytes() == (folders[1] / "adapter_config.json").read_bytes()
    base = toy_llama()
    use_flat_rows(base, "auto")
    read = PeftModel.from_pretrained(copy.deepcopy(base), folders[0]).eval()
    with torch.no_grad():
        logits = [target_logits(model, row()) for model in (fast.eval(), read, load_adapter(base, folders[0]))]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.fixture
def two() -> nn.Module:
    return fast_copy(adapted(Two("plain", 16, 24, True)))


def test_without_a_gradient_it_is_peft(two: nn.Module) -> None:
    slow = adapted(copy.deepcopy(Two("plain", 16, 24, True)))
    slow.load_state_dict(two.state_dict())
    x = torch.randn(3, 16)
    with torch.no_grad():
        assert torch.equal(two(x), slow(x))
    with two.disable_adapter():
        assert torch.equal(two(x), two.get_base_model()(x))


def test_merged_disabled_and_several_adapters_are_honoured(two: nn.Module) -> None:
    x = torch.randn(3, 16)
    before = two(x)
    two.merge_adapter()
    torch.testing.assert_close(two(x), before, rtol=1e-5, atol=1e-5)
    two.unmerge_adapter()
    two.add_adapter("other", LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False))
    assert torch.allclose(two(x), before, atol=1e-6)  # the first is still the one
    two.base_model.set_adapter(["default", "other"])
    both = two(x)
    two.base_model.set_adapter("other")
    assert not torch.allclose(two(x), before, atol=1e-3)
    assert not torch.allclose(both, two(x), atol=1e-3)
    merged = two.merge_and_unload()
    assert type(merged.first) is nn.Linear


def test_ranks_by_pattern() -> None:
    slow = adapted(Two("plain", 16, 24, True), rank_pattern={"second": 7}, alpha_pattern={"first": 3})
    fast, x = fast_copy(slow), torch.randn(2, 5, 16)
    assert_close(gradients(fast, x), gradients(slow, x), 1e-5)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lora_bias": True}, "B has a bias"),
        ({"bias": "lora_only"}, "the base weight or its bias is trained"),
    ],
)
def test_what_stays_with_peft_is_named(changes: dict[str, Any], why: str) -> None:
    slow = adapted(Two("plain", 16, 24, True), **changes)
    fast, x = fast_copy(slow), torch.randn(2, 16)
    ((found, count),) = slow_linears(fast).items()
    assert why in found
    assert count == 2
    assert_close(gradients(fast, x), gradients(slow, x), 0)


def test_embeddings_are_not_asked() -> None:
    model = get_peft_model(toy_llama(), LoraConfig(target_modules=["embed_tokens", "q_proj"], r=2))
    take_fast_linears(model)
    assert not slow_linears(model)
    assert "forward" not in vars(model.get_base_model().model.embed_tokens)
