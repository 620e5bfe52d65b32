"""The work of each benchmark: a random model of a given shape, and rows of a given law of lengths."""

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lorafit.data.row_files import made
from lorafit.data.token_rows import TokenRows
from lorafit.recipe.schema import Recipe

BATCH_ROWS = 8
SEED = 0


@dataclass(frozen=True)
class Work:
    """One benchmark: what is trained, on what, and who else does it."""

    about: str
    hidden: int
    layers: int
    vocabulary: int
    full_rows: int | None = None  # every row so long, all of it trained; else log-normal, 60 % trained
    longest: int = 1024
    steps_per_window: int = 2
    peers: tuple[str, ...] = ("trainer",)
    quantization: dict[str, str] = field(default_factory=lambda: {"kind": "none"})

    @property
    def config(self) -> LlamaConfig:
        """Give the shape of the model."""
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.hidden * 11 // 4,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // 64,
            num_key_value_heads=max(1, self.hidden // 128),
            vocab_size=self.vocabulary,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
        )

    def model(self) -> PreTrainedModel:
        """Make the model, the same for everybody."""
        torch.manual_seed(SEED)
        return LlamaForCausalLM(self.config).requires_grad_(False)

    def rows(self, count: int = 64) -> TokenRows:
        """Make the rows, the same for everybody."""
        random = np.random.default_rng(SEED)
        law = np.exp(random.normal(np.log(180) - 0.32, 0.8, count)).astype(np.int64)
        lengths = np.full(count, self.full_rows) if self.full_rows else np.clip(law, 16, self.longest)
        prompts = np.zeros(count) if self.full_rows else lengths * 0.4
        tokens = [random.integers(3, self.vocabulary, n) for n in lengths]
        trained = [np.arange(n) >= prompt for n, prompt in zip(lengths, prompts, strict=True)]
        return made(list(zip(tokens, trained, strict=True)))

    def recipe(self, steps: int) -> Recipe:
        """Give the settings that everybody follows: rank 16 on all linears, AdamW, clipping, a constant rate."""
        return Recipe.model_validate(
            {
                "version": 1,
                "model": {"path": "builtin:tiny"},
                "adapter": {"kind": "lora", "rank": 16, "alpha": 32},
                "data": {"train": {"path": "none"}},
                "training": {
                    "max_steps": steps, "global_batch_size": BATCH_ROWS, "learning_rate": 1e-3,
                    "schedule": "constant", "warmup": 0,
                },
            }
        )  # fmt: skip


WORKS = {
    "C1": Work("mixed lengths", hidden=512, layers=8, vocabulary=8_000, steps_per_window=1),
    "C2": Work("full rows", hidden=512, layers=8, vocabulary=8_000, full_rows=256, steps_per_window=1),
    "C3": Work("large vocabulary", hidden=256, layers=4, vocabulary=128_000, steps_per_window=1),
    "C4": Work("many small layers", hidden=128, layers=24, vocabulary=8_000, peers=("loop", "trainer")),
}
