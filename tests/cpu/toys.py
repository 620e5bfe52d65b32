"""Toy models of random weights, a toy tokenizer of single characters, and toy runs made of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from string import printable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lorafit.model.adapt import attach, save_adapter
from lorafit.model.load import load_base
from lorafit.recipe.adapters import Full
from lorafit.recipe.resolved import canonical_json, recipe_hash
from lorafit.recipe.schema import Recipe
from lorafit.rundir.state import open_run

SPECIAL = ["<pad>", "<bos>", "<user>", "<assistant>", "<end>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
VOCABULARY = {token: number for number, token in enumerate([*SPECIAL, *printable])}


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each printable ASCII character, and markers for the turns."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<end>",
        extra_special_tokens=["<user>", "<assistant>"],
        chat_template=TEMPLATE,
    )


def _sizes() -> dict[str, int]:
    return {
        "vocab_size": len(VOCABULARY), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 0,
    }  # fmt: skip


def toy_llama(**changes: object) -> PreTrainedModel:
    """Llama: no biases, head of its own."""
    return _random(LlamaForCausalLM, LlamaConfig(**_sizes() | {"tie_word_embeddings": False} | changes))


def toy_qwen2() -> PreTrainedModel:
    """Qwen 2: biases on q, k and v, head tied to the embedding."""
    return _random(Qwen2ForCausalLM, Qwen2Config(**_sizes() | {"tie_word_embeddings": True}))


def toy_gpt2() -> PreTrainedModel:
    """GPT-2: Conv1D layers, which store a weight the other way round, and learned positions."""
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=4,
    )
    return _random(GPT2LMHeadModel, config)


def _random(kind: Callable[..., PreTrainedModel], config: object) -> PreTrainedModel:
    """Weights large enough for the logits to differ, biases that are not zero."""
    torch.manual_seed(0)
    model = kind(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def save_toy(model: PreTrainedModel, folder: Path, **options: object) -> Path:
    """Save a model with the toy tokenizer, as a base model lies on disk."""
    model.save_pretrained(folder, **options)
    toy_tokenizer().save_pretrained(folder)
    return folder


def toy_run(root: Path, base: Path, tensors: Callable[[PreTrainedModel], None] | None = None, **recipe: object) -> Path:
    """A finished run on a base folder, its adapter drawn at random; `tensors` may change it before it is saved."""
    spec = {
        "version": 1,
        "model": {"path": str(base)},
        "adapter": {"kind": "lora", "rank": 4, "alpha": 8.0},
        "data": {"train": [{"path": str(root / "absent.jsonl")}]},
    }
    made = Recipe.model_validate(spec | recipe)
    model = load_base(made.model, made.quantization, torch.device("cpu"), base).model
    adapted = attach(model, made.adapter, str(base), seed=0).model
    randomise(adapted)
    if tensors is not None:
        tensors(adapted)

    def fill(folder: Path) -> None:
        if isinstance(made.adapter, Full):
            adapted.save_pretrained(folder)
        else:
            save_adapter(adapted, folder, {})
        toy_tokenizer().save_pretrained(folder)

    with open_run(root, b"", canonical_json(made), recipe_hash(made), "new") as run:
        run.mark("running")
        target = run.folder.model if isinstance(made.adapter, Full) else run.folder.adapter
        run.store.commit_folder(target, fill, {})
        run.mark("finished", exit_code=0)
    return root


def randomise(model: PreTrainedModel, size: float = 0.05) -> None:
    """Give an adapter weights as training might: B not zero, magnitudes off their start; all of a whole model."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=size)
        elif parameter.requires_grad and "lora_A" not in name:
            parameter.data *= 1 + 2 * size * torch.randn_like(parameter)


@contextmanager
def kept_storages(model: nn.Module) -> Iterator[dict[int, int]]:
    """Watch what a forward keeps for its backward: storages besides those of parameters, and their bytes."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        yield found
