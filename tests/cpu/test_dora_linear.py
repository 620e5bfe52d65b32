"""The DoRA linear: its norms, what it keeps, where PEFT's forward stays; its gradients are tested beside LoRA's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorafit.model.dora_linear import row_norms, row_squares
from lorafit.model.fast_linear import slow_linears, take_fast_linears
from lorafit.model.lora_linear import frozen_weight
from tests.cpu.test_lora_linear import Two, adapted, assert_close, fast_copy, gradients, kept


@pytest.mark.parametrize("base", ["plain", "nf4"])
@pytest.mark.parametrize(("bias", "dropout"), [(False, 0.0), (True, 0.0), (False, 0.2)])
def test_dora_keeps_a_tensor_of_its_width_and_no_weight(base: str, bias: bool, dropout: float) -> None:
    model = fast_copy(adapted(Two(base, 64, 128, bias), lora_dropout=dropout, use_dora=True)).base_model.model
    size = sum(kept(model, torch.randn(32, 64, requires_grad=True)).values())
    assert size == 4 * (32 * 64 + 2 * (32 * 4 + 32 * 128 + 128))  # x, and twice A x, the output, norms


@given(rank=st.integers(1, 12), scale=st.floats(0.01, 8), width=st.integers(1, 40), out=st.integers(1, 40))
def test_norms_of_rows_are_those_of_the_sum(rank: int, scale: float, width: int, out: int) -> None:
    torch.manual_seed(rank + width)
    weight, a, b = (torch.randn(*shape, dtype=torch.float64) for shape in ((out, width), (rank, width), (out, rank)))
    norms = row_norms(weight, row_squares(weight), a, b, scale)
    torch.testing.assert_close(norms, (weight + scale * b @ a).norm(dim=1), rtol=1e-6, atol=1e-8)


def test_dora_without_a_gradient_builds_no_weight_either(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = adapted(Two("plain", 16, 24, True), use_dora=True).eval()
    fast, x = fast_copy(slow), torch.randn(3, 16)
    with torch.no_grad():
        expected = slow(x)
        monkeypatch.delattr("peft.tuners.lora.dora.DoraLinearLayer.forward")
        torch.testing.assert_close(fast(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_base_in_8_bits_computes_as_what_it_unpacks_to(dropout: float) -> None:
    packed = adapted(Two("int8", 64, 24, True), use_dora=True, lora_dropout=dropout)
    plain = adapted(Two("plain", 64, 24, True), use_dora=True, lora_dropout=dropout)
    trained = {name: value for name, value in packed.state_dict().items() if "lora_" in name}
    plain.load_state_dict(trained, strict=False)
    for name in ("first", "second"):
        theirs, ours = (getattr(model.base_model.model, name).base_layer for model in (packed, plain))
        ours.weight.data, ours.bias = frozen_weight(theirs, torch.float32), theirs.bias
    take_fast_linears(packed)
    assert not slow_linears(packed)
    x = torch.randn(5, 64)
    assert_close(gradients(packed, x), gradients(plain, x), 1e-5)


def test_an_update_that_takes_the_weight_away_leaves_a_number() -> None:
    weight = torch.randn(8, 1) @ torch.randn(1, 8)
    u, s, v = torch.linalg.svd(weight)
    for left in (0.1, 1e-3, 1e-5, 0.0):
        a, b = v[:1], -(1 - left) * u[:, :1] * s[:1]
        norms = row_norms(weight, row_squares(weight), a, b, 1.0)
        assert norms.isfinite().all()
        assert (norms > 0).all()
        if left == 0.1:
            torch.testing.assert_close(norms, (weight + b @ a).norm(dim=1), rtol=1e-4, atol=0)
