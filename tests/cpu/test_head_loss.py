"""The chunked loss of a frozen head against torch's own over all logits."""

import copy
from contextlib import nullcontext

import pytest
import torch
from toys import toy_gpt2, toy_llama
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, PreTrainedModel

from lorafit.model import head_loss
from lorafit.model.adapt import attach
from lorafit.model.batch import DeviceBatch
from lorafit.model.documents import use_flat_rows
from lorafit.model.loss import summed_loss, target_logits
from lorafit.recipe.adapters import Full, Lora

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 105, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def row(seed: int = 1) -> DeviceBatch:
    tokens = torch.randint(3, 105, (30,), generator=torch.Generator().manual_seed(seed))
    return DeviceBatch(
        input_ids=tokens[None],
        position_ids=torch.cat([torch.arange(18), torch.arange(12)])[None],
        boundaries=torch.tensor([0, 18, 30], dtype=torch.int32),
        lengths=(18, 12),
        predicting=torch.tensor([3, 4, 7, 16, 20, 28]),
        targets=tokens[torch.tensor([4, 5, 8, 17, 21, 29])],
    )


def exact_loss(model: PreTrainedModel, batch: DeviceBatch) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(target_logits(model, batch).float(), batch.targets, reduction="sum")


@pytest.mark.parametrize("chunk", [1, 2 * 105, 5 * 105, 10**6])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_torchs(
    chunk: int, bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_loss, "CHUNK_LOGITS", chunk)
    torch.manual_seed(0)
    head = torch.nn.Linear(32, 105, bias=bias, dtype=dtype).requires_grad_(False)
    hidden, targets = torch.randn(7, 32, dtype=dtype, requires_grad=True), torch.randint(105, (7,))
    found = head_loss.head_loss(hidden, head, targets)
    (gradient,) = torch.autograd.grad(found / 3, hidden)
    reference = hidden.detach().float().requires_grad_()
    logits = torch.nn.functional.linear(reference, head.weight.float(), head.bias.float() if bias else None)
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    (expected,) = torch.autograd.grad(wanted / 3, reference)
    loose = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found, wanted, rtol=loose, atol=0)
    assert (gradient.float() - expected).norm() <= loose * expected.norm()


def test_a_confident_target_keeps_its_gradient_in_16_bits() -> None:
    head = torch.nn.Linear(2, 2, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    head.weight.copy_(torch.eye(2))
    hidden = torch.tensor([[6.5, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    head_loss.head_loss(hidden, head, torch.tensor([0])).backward()
    missing = torch.tensor([6.5, 0.0]).softmax(0)[1]
    assert hidden.grad[0].float().abs() == pytest.approx([float(missing)] * 2, rel=0.01)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_run_of_lora_takes_it_and_gets_the_same_gradients(autocast: bool) -> None:
    def gradients(fast: bool) -> list[torch.Tensor]:
        model = toy_llama().to(torch.bfloat16 if autocast else torch.float32).requires_grad_(False)
        use_flat_rows(model, "auto")
        if not fast:
            head_loss._PLAIN.discard(model)
        assert (head_loss.frozen_head(model) is not None) == fast
        adapted = attach(model, Lora(), "toy", 0).model
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.01)
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            loss = summed_loss(adapted, row())
        loss.backward()
        return [p.grad for p in adapted.parameters() if p.requires_grad]

    for fast, slow in zip(gradients(True), gradients(False), strict=True):
        assert (fast - slow).norm() <= (2e-2 if autocast else 1e-5) * slow.norm() + 1e-6


ODD = {
    "soft cap": Gemma2Config(**SIZES, head_dim=8),
    "scaled by 1/16": CohereConfig(**SIZES, logit_scale=0.0625),
    "divided by 8": GraniteConfig(**SIZES, logits_scaling=8.0),
}


@pytest.mark.parametrize("odd", ODD)
def test_logits_that_are_more_than_their_head_are_made_by_the_model(odd: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(ODD[odd])).eval().requires_grad_(False)
    use_flat_rows(model, "auto")
    assert head_loss.frozen_head(model) is None
    assert torch.equal(summed_loss(model, row()), exact_loss(model, row()))


def test_a_head_that_is_trained_or_adapted_is_not_taken_for_frozen() -> None:
    trained = toy_llama()
    use_flat_rows(trained, "auto")
    assert head_loss.frozen_head(trained) is None  # fresh from its class, everything is trained
    assert head_loss.frozen_head(attach(trained, Full(), "toy", 0).model) is None
    adapted = toy_llama().requires_grad_(False)
    use_flat_rows(adapted, "auto")
    assert head_loss.frozen_head(adapted) is not None
    wrapped = attach(adapted, Lora(target_modules=["q_proj"]), "toy", 0).model
    from peft import LoraConfig, get_peft_model

    again = get_peft_model(wrapped.unload(), LoraConfig(target_modules=["lm_head"], r=2))
    assert head_loss.frozen_head(again.get_base_model()) is None


def test_gpt2_has_a_loss_either_way() -> None:
    model = toy_gpt2().requires_grad_(False)
    use_flat_rows(model, "auto")
    torch.testing.assert_close(summed_loss(model, row()), exact_loss(model, row()), rtol=1e-5, atol=1e-5)
