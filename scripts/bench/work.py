"""The work of each benchmark: a random model of a given shape, and rows of a given law of lengths."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from peft import prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lorafit.data.row_files import made
from lorafit.data.token_rows import TokenRows
from lorafit.model.load import Base, load_base
from lorafit.recipe.schema import Recipe
from lorafit.train.sizes import Sizes

SEED = 0
ROWS = 64
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Work:
    """One benchmark: what is trained, on what, and who else does it."""

    about: str
    hidden: int
    layers: int
    vocabulary: int
    full_rows: int | None = None  # every row so long, all of it trained; else log-normal, 60 % trained
    longest: int = 1024
    steps_per_window: int = 1
    peers: tuple[str, ...] = ("trainer",)
    quantization: Literal["none", "nf4"] = "none"
    unpacked: bool = False  # a 4-bit base stays unpacked in lorafit, as it does where there is room
    adapter: Literal["lora", "dora", "full"] = "lora"
    rank: int = 16
    batch_rows: int = 8  # of a step; all of them in one pass
    micro_rows: int | None = None
    recompute: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

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

    def own_base(self, recipe: Recipe) -> Base:
        """Give the base as a run of lorafit loads it; plain weights need no detour over the disk."""
        device = torch.device(self.device)
        if self.quantization == "none":
            return Base(Path(), self.model().eval(), device, self.dtype)
        with tempfile.TemporaryDirectory() as folder:
            self.model().save_pretrained(folder)
            return load_base(recipe.model, recipe.quantization, device, Path(folder))

    def peer_base(self) -> PreTrainedModel:
        """Give the base as transformers' documentation says."""
        if self.quantization == "none":
            return self.model()
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=self.dtype,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            self.model().save_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=self.dtype)
        prepared: PreTrainedModel = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return prepared

    def sizes(self, recipe: Recipe) -> Sizes:
        """Give what lorafit would choose by the memory, here fixed."""
        del recipe
        rows, unpacked = self.micro_rows or self.batch_rows, self.layers if self.unpacked else 0
        return Sizes(rows, None if self.recompute else 0, None, unpacked_layers=unpacked)

    @property
    def words(self) -> int:
        """How many words the tokens are drawn from."""
        return self.vocabulary

    @property
    def flops_per_token(self) -> float:
        """4 N + 6 A + 6 s h L, the head counted for the share of tokens that have logits (engine.md)."""
        config, lengths = self.config, self.lengths().astype(float)
        hidden, inner = config.hidden_size, config.intermediate_size
        keys = hidden // config.num_attention_heads * (config.num_key_value_heads or 1)
        pairs = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden), *[(hidden, inner)] * 3]
        weights = self.layers * sum(a * b for a, b in pairs)
        adapters = self.layers * sum(self.rank * (a + b) for a, b in pairs)
        head = hidden * self.vocabulary * (1.0 if self.full_rows else 0.6)
        row = (lengths**2).sum() / lengths.sum()
        return float(4 * (weights + head) + 6 * adapters + 6 * row * hidden * self.layers)

    def lengths(self, count: int = ROWS) -> NDArray[np.int64]:
        """Draw the lengths of the rows."""
        law = np.exp(np.random.default_rng(SEED).normal(np.log(180) - 0.32, 0.8, count)).astype(np.int64)
        return np.clip(law, 16, self.longest) if self.full_rows is None else np.full(count, self.full_rows)

    def rows(self, count: int = ROWS) -> TokenRows:
        """Make the rows, the same for everybody."""
        random, lengths = np.random.default_rng(SEED + 1), self.lengths(count)
        prompts = np.zeros(count) if self.full_rows else lengths * 0.4
        tokens = [random.integers(3, self.words, n) for n in lengths]
        trained = [np.arange(n) >= prompt for n, prompt in zip(lengths, prompts, strict=True)]
        return made(list(zip(tokens, trained, strict=True)))

    def recipe(self, steps: int) -> Recipe:
        """Give the settings that everybody follows: rank 16 on all linears, AdamW, clipping, a constant rate."""
        return Recipe.model_validate(
            {
                "version": 1,
                "model": {"path": "builtin:tiny"},
                "adapter": {"kind": self.adapter, "rank": self.rank, "alpha": 2 * self.rank},
                "quantization": {"kind": self.quantization},
                "data": {"train": {"path": "none"}},
                "training": {
                    "max_steps": steps, "global_batch_size": self.batch_rows, "learning_rate": 1e-3,
                    "schedule": "constant", "warmup": 0,
                },
            }
        )  # fmt: skip


C1 = Work("mixed lengths", hidden=512, layers=8, vocabulary=8_000, peers=("trainer", "trl", "trl_packed"))
WORKS = {
    "C1": C1,
    "C2": replace(C1, about="full rows", full_rows=256, peers=("trainer",)),
    "C3": replace(C1, about="large vocabulary", hidden=256, layers=4, vocabulary=128_000, peers=("trainer", "trl")),
    "C4": Work("many small layers", hidden=128, layers=24, vocabulary=8_000, peers=("loop", "trainer")),
    "C5": replace(C1, about="4-bit base", hidden=256, layers=4, quantization="nf4", unpacked=True, peers=("trainer",)),
    "dora": replace(C1, about="DoRA", hidden=256, layers=4, adapter="dora", peers=("trainer",)),
    "qdora": replace(
        C1, about="DoRA of a 4-bit base", hidden=256, layers=4, adapter="dora", quantization="nf4", peers=("trainer",)
    ),
}
