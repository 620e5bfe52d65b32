"""Greedy generation in batches: what a row gets does not depend on its neighbours or on the base's settings."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toys import toy_gpt2, toy_llama, toy_tokenizer
from transformers import GenerationConfig, PreTrainedModel

from lorafit.evaluate.generation import Answer, generate_answers

PROMPTS = [[1, 2, *range(10 + start, 10 + start + length)] for start, length in enumerate([3, 17, 1, 30, 8, 8, 2])]


def answers(model: PreTrainedModel, batch_size: int, stop_ids: set[int] | None = None, limit: int = 12) -> list[Answer]:
    return generate_answers(
        model,
        toy_tokenizer(),
        PROMPTS,
        max_new_tokens=limit,
        batch_size=batch_size,
        stop_ids={4} if stop_ids is None else stop_ids,
    )


@torch.no_grad()
def by_hand(model: PreTrainedModel, prompt: list[int], stop_ids: set[int], limit: int = 12) -> list[int]:
    """The oracle: no cache, no batch, the whole text again for each token."""
    ids = list(prompt)
    for _ in range(limit):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stop_ids:
            break
    return ids[len(prompt) :]


def common_stop(model: PreTrainedModel) -> int:
    """A token that some answers hold and others do not."""
    written = [by_hand(model, prompt, set()) for prompt in PROMPTS]
    counts = {token: sum(token in row for row in written) for row in written for token in row}
    return min(counts, key=lambda token: abs(counts[token] - len(PROMPTS) / 2))


@pytest.mark.parametrize("make", [toy_llama, toy_gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_a_row_gets_what_it_would_get_alone(make: object, batch_size: int) -> None:
    model = make()  # type: ignore[operator]
    stop = common_stop(model)
    found = answers(model, batch_size, {stop})
    for answer, prompt in zip(found, PROMPTS, strict=True):
        expected = by_hand(model, prompt, {stop})
        assert answer.finished == (expected[-1] == stop)
        assert answer.tokens == len(expected)
        assert answer.text == toy_tokenizer().decode([t for t in expected if t != stop], skip_special_tokens=True)
    assert len({answer.finished for answer in found}) == 2  # both cases were seen


def test_the_base_s_sampling_settings_do_not_leak_in() -> None:
    model = toy_llama()
    plain = answers(model, 3)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=3,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        min_new_tokens=12,
        suppress_tokens=list(range(40, 90)),
        eos_token_id=50,
        max_length=5,
    )
    kept = model.generation_config
    assert answers(model, 3) == plain
    assert model.generation_config is kept


def test_an_adapter_s_answers_are_its_own_and_the_base_s_come_back() -> None:
    base = answers(toy_llama(), 3)
    model = get_peft_model(toy_llama(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert answers(model, 3) == base
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted = answers(model, 3)
    assert adapted != base
    with model.disable_adapter():
        assert answers(model, 3) == base
    assert answers(model, 7) == adapted


def test_a_model_in_training_goes_on_training() -> None:
    model = toy_llama(attention_dropout=0.5).train()
    assert answers(model, 7) == answers(model, 1)
    assert model.training


def test_no_stop_token_means_the_limit() -> None:
    assert all(answer.tokens == 5 and not answer.finished for answer in answers(toy_llama(), 7, set(), limit=5))


def test_nothing_asked_nothing_answered() -> None:
    assert generate_answers(toy_llama(), toy_tokenizer(), [], max_new_tokens=3, batch_size=2, stop_ids={4}) == []
