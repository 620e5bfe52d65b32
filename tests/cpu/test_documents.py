"""Documents of one row neither see nor change each other, whatever the architecture scores attention by."""

import copy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from lorafit.errors import ModelError
from lorafit.model import attention, documents
from lorafit.model.batch import DeviceBatch
from lorafit.model.documents import use_flat_rows
from lorafit.model.loss import summed_loss

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "mistral, window 4": MistralConfig(**SIZES, sliding_window=4),
    "gemma 2, soft cap and window": Gemma2Config(**SIZES, sliding_window=4),
    "qwen 3": Qwen3Config(**SIZES),
    "phi 3, fused projections": Phi3Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}),
    "gpt-oss, sinks": GptOssConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=4),
}


def tiny(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()


def row(lengths: list[int], tokens: torch.Tensor) -> DeviceBatch:
    """Every token but the first of each document is a target."""
    ends = torch.tensor([0, *lengths]).cumsum(0)
    positions = torch.cat([torch.arange(n) for n in lengths])
    predicted = torch.nonzero(positions > 0).squeeze(1)
    return DeviceBatch(
        input_ids=tokens[None],
        position_ids=positions[None],
        boundaries=ends.int(),
        lengths=tuple(lengths),
        predicting=predicted - 1,
        targets=tokens[predicted],
    )


@pytest.mark.parametrize("requested", ["auto", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_of_documents_equals_each_alone(family: str, requested: str) -> None:
    model = tiny(FAMILIES[family])
    use_flat_rows(model, requested)
    tokens = torch.randint(3, 128, (24,), generator=torch.Generator().manual_seed(1))
    together = summed_loss(model, row([11, 6, 7], tokens))
    apart = sum(summed_loss(model, row([len(part)], part)) for part in tokens.split([11, 6, 7]))
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("requested", ["auto", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_changing_a_document_leaves_the_others_bit_identical(family: str, requested: str) -> None:
    model = tiny(FAMILIES[family])
    use_flat_rows(model, requested)
    tokens = torch.randint(3, 128, (24,), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:11] = tokens[:11].flip(0)
    of_others = [documents.target_logits(model, row([11, 6, 7], t))[10:] for t in (tokens, changed)]
    assert torch.equal(*of_others)


def test_the_gradient_of_a_row_is_the_sum_over_its_documents() -> None:
    model = tiny(FAMILIES["llama"])
    use_flat_rows(model, "auto")
    tokens = torch.randint(3, 128, (24,), generator=torch.Generator().manual_seed(1))

    def gradient(batches: list[DeviceBatch]) -> list[torch.Tensor]:
        model.zero_grad()
        for batch in batches:
            summed_loss(model, batch).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    together = gradient([row([11, 6, 7], tokens)])
    apart = gradient([row([len(part)], part) for part in tokens.split([11, 6, 7])])
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Largest(TorchDispatchMode):
    """Remembers the last two dimensions of everything that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.shapes.update(
            tuple(x.shape[-2:]) for x in tree_leaves(made) if isinstance(x, torch.Tensor) and x.dim() > 1
        )
        return made


@pytest.mark.parametrize("family", ["llama", "mistral, window 4"])
@pytest.mark.parametrize("lengths", [[300], [200, 100], [3] * 100])
def test_nothing_as_large_as_the_row_squared_is_made(family: str, lengths: list[int]) -> None:
    model = tiny(FAMILIES[family])
    use_flat_rows(model, "auto")
    with Largest() as largest:
        summed_loss(model, row(lengths, torch.randint(3, 128, (300,)))).backward()
    assert not [shape for shape in largest.shapes if min(shape) >= 200]


def test_a_kernel_that_leaks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(FAMILIES["llama"])

    def one_document(bounds: torch.Tensor, *tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        return [tensors]

    monkeypatch.setattr(attention, "_documents", one_document)
    with pytest.raises(ModelError, match="move by"):
        use_flat_rows(model, "auto")


def test_a_model_that_ignores_boundaries_is_refused() -> None:
    model = tiny(FAMILIES["llama"])
    forward = model.forward
    model.forward = lambda input_ids, use_cache=False: forward(input_ids=input_ids, use_cache=use_cache)
    with pytest.raises(ModelError, match="cannot train on several documents"):
        use_flat_rows(model, "auto")
