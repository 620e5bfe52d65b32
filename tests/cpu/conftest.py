"""A random Llama with a byte-level tokenizer, and a handful of rows: enough for every path, in a second."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lorafit.recipe.load import LoadedRecipe, load_recipe

SPECIAL = ["<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: nothing to download, nothing to train."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<|end|>"
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer Llama of random weights and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.08,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def chat_rows(count: int, offset: int = 0) -> list[dict[str, Any]]:
    """Small questions with one right answer, of ragged lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"twice {n}" + " please" * (n % 4)},
                {"role": "assistant", "content": str(2 * n)},
            ]
        }
        for n in range(offset, offset + count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_recipe(folder: Path, model: Path | str, **changes: Any) -> LoadedRecipe:
    """Write a small recipe beside its data and load it; `changes` are `--set` overrides, `__` for a dot."""
    recipe = {
        "version": 1,
        "model": {"path": str(model)},
        "adapter": {"kind": "lora", "rank": 4, "alpha": 8},
        "data": {
            "train": [{"path": str(write_rows(folder / "train.jsonl", chat_rows(24)))}],
            "validation": {"path": str(write_rows(folder / "validation.jsonl", chat_rows(8, 100)))},
            "max_length": 64,
            "packing": False,
        },
        "training": {
            "max_steps": 6,
            "global_batch_size": 8,
            "micro_batch_size": 8,
            "learning_rate": 0.01,
            "warmup": 0,
        },
        "output": {"dir": str(folder / "run")},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    overrides = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    return load_recipe(path, overrides)
