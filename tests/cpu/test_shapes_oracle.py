"""Shapes against the real transformers models, built on the meta device from the same configuration."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from lorafit.model.adapt import linear_names
from lorafit.plan.catalogue import Entry, entries
from lorafit.plan.families import FAMILIES
from lorafit.plan.shapes import shape_from_config

BUILDABLE = [entry for entry in entries() if not FAMILIES[str(entry.config["model_type"])].remote_code]
ONE_OF_EACH_FAMILY = list({str(entry.config["model_type"]): entry for entry in reversed(BUILDABLE)}.values())
# variants that no entry of the catalogue has
VARIANTS = [
    {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    {"model_type": "stablelm", "use_parallel_residual": True, "use_qkv_bias": True, "qk_layernorm": True},
    {"model_type": "phi", "qk_layernorm": True},
    {"model_type": "cohere", "use_qk_norm": True, "tie_word_embeddings": False},
    {"model_type": "gpt_neox", "use_parallel_residual": False, "attention_bias": False},
    {"model_type": "falcon", "parallel_attn": False, "multi_query": False, "bias": True},
    {"model_type": "glm", "head_dim": 16},
    {"model_type": "gemma2", "head_dim": 16, "tie_word_embeddings": False},
    {"model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 32, "decoder_sparse_step": 2},
    {"model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 32, "mlp_only_layers": [0]},
]
SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100,
}  # fmt: skip


def build(config: dict[str, object]) -> PreTrainedModel:
    settings = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(CONFIG_MAPPING[config["model_type"]](**settings, pad_token_id=None))


def sizes(model: PreTrainedModel) -> list[tuple[str, int, int]]:
    modules = dict(model.named_modules())
    return [(name, *_in_and_out(modules[name])) for name in linear_names(model)]


def _in_and_out(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    return module.in_features, module.out_features


def assert_same(config: dict[str, object], name: str) -> None:
    model, shape = build(config), shape_from_config(config, name)
    assert [(linear.name, linear.in_features, linear.out_features) for linear in shape.linears()] == sizes(model)
    assert shape.total_parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("entry", ONE_OF_EACH_FAMILY, ids=lambda entry: str(entry.config["model_type"]))
def test_one_model_of_each_family_is_exact(entry: Entry) -> None:
    assert_same(entry.config, entry.hub_id)


@pytest.mark.slow
@pytest.mark.parametrize("entry", BUILDABLE, ids=lambda entry: entry.hub_id)
def test_every_model_of_the_catalogue_is_exact(entry: Entry) -> None:
    assert_same(entry.config, entry.hub_id)


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_variants_of_a_family_are_exact(changes: dict[str, object]) -> None:
    assert_same(SMALL | changes, "variant")


def test_every_family_that_can_be_built_is_compared() -> None:
    compared = {entry.config["model_type"] for entry in ONE_OF_EACH_FAMILY} | {each["model_type"] for each in VARIANTS}
    assert compared == {name for name, family in FAMILIES.items() if not family.remote_code}
