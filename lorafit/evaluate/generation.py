"""Answers by greedy generation, in batches, each independent of its neighbours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation import BaseStreamer

from lorafit.model.adapt import base_of


@dataclass(frozen=True)
class Answer:
    """What a model wrote after a prompt."""

    text: str  # special tokens left out
    finished: bool  # it ended by a stop token, not by the limit
    tokens: int  # generated, the stop token among them


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    stop_ids: set[int],
    streamer: BaseStreamer | None = None,
) -> list[Answer]:
    """Continue each prompt (token ids) greedily until a stop token or the limit; answers come in the order asked.

    Prompts of like length share a batch, the longest first: little is padded, and what does not fit fails at
    once. Padding is on the left, masked, and not counted by the positions.
    """
    answers: dict[int, Answer] = {}
    longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    settings = _greedy(max_new_tokens, stop_ids, padding=tokenizer.pad_token_id)
    with _plain_generation(model):
        for start in range(0, len(prompts), batch_size):
            batch = longest_first[start : start + batch_size]
            written = _continue(model, [prompts[index] for index in batch], settings, streamer)
            answers.update(zip(batch, (_answer(tokenizer, row, stop_ids) for row in written), strict=True))
    return [answers[index] for index in range(len(prompts))]


def _greedy(max_new_tokens: int, stop_ids: set[int], padding: int | None) -> GenerationConfig:
    """Say everything, so that nothing is left to a default. Any id serves as padding: it is masked and cut off."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stop_ids),
        pad_token_id=padding if padding is not None else min(stop_ids, default=0),
        use_cache=True,
    )


@contextmanager
def _plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Hide the base's own generation config: generate() takes from it whatever the call leaves unset.

    A repetition penalty or a sampling temperature there would otherwise change the answers.
    """
    holders = [model, base_of(model)]  # PEFT copies its own over the base's at each call
    saved = [holder.generation_config for holder in holders]
    was_training = model.training
    model.eval()
    try:
        for holder in holders:
            holder.generation_config = GenerationConfig()
        yield
    finally:
        for holder, config in zip(holders, saved, strict=True):
            holder.generation_config = config
        model.train(was_training)


@torch.inference_mode()
def _continue(
    model: PreTrainedModel,
    prompts: list[Sequence[int]],
    settings: GenerationConfig,
    streamer: BaseStreamer | None,
) -> list[list[int]]:
    """Give the new token ids of each prompt, padding included."""
    width = max(map(len, prompts))
    padding = settings.pad_token_id
    ids = torch.tensor([[padding] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    # generate() counts positions from the mask, so a padded prompt starts at position 0 too
    output = cast("Any", model).generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=settings,
        streamer=streamer,
    )
    new: list[list[int]] = output[:, width:].tolist()
    return new


def _answer(tokenizer: PreTrainedTokenizerBase, written: list[int], stop_ids: set[int]) -> Answer:
    """Cut at the first stop token."""
    length = next((place for place, token in enumerate(written) if token in stop_ids), len(written))
    finished = length < len(written)
    text = tokenizer.decode(written[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return Answer(text, finished, length + finished)
