"""Pretraining of the tiny base model from scratch: packed sequences, AdamW, warm-up and cosine."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.tiny.corpus import documents

DOCUMENTS_PER_CHUNK = 4096
LOG_EVERY_STEPS = 50
SAVE_EVERY_STEPS = 500


@dataclass(frozen=True)
class Settings:
    """Everything that decides the weights, next to the code."""

    seed: int = 1
    vocabulary: int = 1024
    width: int = 192
    inner_width: int = 512
    layers: int = 4
    heads: int = 6
    positions: int = 512
    sequence_tokens: int = 256
    batch_sequences: int = 16
    steps: int = 3400
    warmup_steps: int = 150
    peak_learning_rate: float = 3e-3
    final_learning_rate: float = 1e-4
    weight_decay: float = 0.05
    # bfloat16 arithmetic over float32 weights: twice as fast here, same loss to two digits.
    bfloat16: bool = True


def new_model(settings: Settings, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """Fresh weights, the same for the same seed."""
    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=settings.vocabulary,
            hidden_size=settings.width,
            intermediate_size=settings.inner_width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=settings.positions,
            initializer_range=0.04,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.token_to_id("<|bos|>"),
            eos_token_id=tokenizer.token_to_id("<|end|>"),
            pad_token_id=tokenizer.token_to_id("<|pad|>"),
        )
    )


def batches(settings: Settings, tokenizer: Tokenizer) -> Iterator[torch.Tensor]:
    """Documents end to end, cut into equal sequences; an endless stream fixed by the seed."""
    stream, held = documents(settings.seed + 1), torch.empty(0, dtype=torch.long)
    shape = (settings.batch_sequences, settings.sequence_tokens)
    size = shape[0] * shape[1]
    while True:
        encoded = tokenizer.encode_batch(list(islice(stream, DOCUMENTS_PER_CHUNK)), add_special_tokens=False)
        fresh = torch.tensor([token for document in encoded for token in document.ids])
        held = torch.cat([held, fresh])
        while len(held) >= size:
            yield held[:size].view(shape)
            held = held[size:]


def learning_rate(settings: Settings, step: int) -> float:
    """Linear warm-up, then cosine down to the final rate."""
    if step < settings.warmup_steps:
        return settings.peak_learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    span = settings.peak_learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def optimizer_for(model: LlamaForCausalLM, settings: Settings) -> torch.optim.AdamW:
    """Weight decay on matrices only: norms are scales, which decay would pull off their mark."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def train_step(
    model: LlamaForCausalLM, optimizer: torch.optim.AdamW, tokens: torch.Tensor, settings: Settings, step: int
) -> float:
    """One update; returns its loss."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, step)
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
        loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def pretrain(settings: Settings, tokenizer: Tokenizer, work_folder: Path) -> tuple[LlamaForCausalLM, float]:
    """The trained model and its mean loss over the last logged steps; goes on from a saved state."""
    model = new_model(settings, tokenizer)
    optimizer = optimizer_for(model, settings)
    first = _resume(model, optimizer, work_folder)
    model.train()
    losses: list[float] = []
    started_s = time.monotonic()
    for step, tokens in islice(enumerate(batches(settings, tokenizer)), first, settings.steps):
        losses.append(train_step(model, optimizer, tokens, settings, step))
        if (step + 1) % LOG_EVERY_STEPS == 0:
            elapsed_s = time.monotonic() - started_s
            _log(settings, step + 1, losses[-LOG_EVERY_STEPS:], step + 1 - first, elapsed_s)
        if (step + 1) % SAVE_EVERY_STEPS == 0 or step + 1 == settings.steps:
            _save(model, optimizer, step + 1, work_folder)
    tail = losses[-LOG_EVERY_STEPS:]
    model.train(False)
    return model, sum(tail) / max(1, len(tail))


def _log(settings: Settings, step: int, losses: list[float], done: int, elapsed_s: float) -> None:
    tokens_per_s = done * settings.batch_sequences * settings.sequence_tokens / elapsed_s
    line = {"step": step, "loss": round(sum(losses) / len(losses), 4), "tokens_per_s": round(tokens_per_s)}
    print(json.dumps(line), flush=True)


def _save(model: LlamaForCausalLM, optimizer: torch.optim.AdamW, step: int, folder: Path) -> None:
    model.save_pretrained(str(folder / "model"))
    torch.save({"optimizer": optimizer.state_dict(), "step": step}, folder / "state.pt")


def _resume(model: LlamaForCausalLM, optimizer: torch.optim.AdamW, folder: Path) -> int:
    if not (folder / "state.pt").exists():
        return 0
    model.load_state_dict(LlamaForCausalLM.from_pretrained(str(folder / "model")).state_dict())
    state = torch.load(folder / "state.pt", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
