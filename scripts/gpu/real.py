"""A training step at a real shape: what the benchmarks' contenders do, on a card, with random weights."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from lorafit.model.load import Base
from lorafit.model.memory import free_bytes, product_workspace_bytes
from lorafit.plan.find_shape import find_shape
from lorafit.plan.question import BaseDtype, MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.plan.work import work as count_work
from lorafit.recipe.optimizers import OptimizerName
from lorafit.recipe.quantization import Nf4, Quantization, Unquantized
from lorafit.recipe.schema import Recipe
from lorafit.train.sizes import Sizes, choose_sizes
from scripts.bench.work import SEED, Work
from scripts.gpu.build import random_model

# the same kinds of layers, as small as they can be: to run every script where there is no card
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "head_dim": 16, "max_window_layers": 2,
}  # fmt: skip
TINY_LENGTH = 64  # a row is so many times shorter


@dataclass(frozen=True)
class Real(Work):
    """One measured setting; sizes of the parent are not read, the shape is that of the model named."""

    about: str = ""
    hidden: int = 0
    layers: int = 0
    vocabulary: int = 0
    model_name: str = "meta-llama/Meta-Llama-3-8B"
    optimizer: OptimizerName = "adamw"
    batch_rows: int = 4
    automatic: bool = False  # lorafit chooses how many rows a pass takes and what is recomputed
    tiny: bool = False

    @classmethod
    def make(cls, *, tiny: bool, device: str, **settings: Any) -> "Real":
        """Make the setting; with `tiny` at a toy's size in float32."""
        work = cls(device=device, tiny=tiny, dtype=torch.float32 if tiny else torch.bfloat16, **settings)
        return replace(work, full_rows=max(8, (work.full_rows or 0) // TINY_LENGTH)) if tiny else work

    @cached_property
    def shape(self) -> dict[str, object]:
        """The model's config.json, or a toy's of the same family."""
        config = find_shape(self.model_name).config
        return dict(config) | (TINY if self.tiny else {})

    @property
    def bits(self) -> Quantization:
        """How the base is held."""
        return Nf4() if self.quantization == "nf4" else Unquantized()

    def model(self) -> PreTrainedModel:
        """Make the base on the device, the same for everybody."""
        torch.manual_seed(SEED)
        return random_model(self.shape, self.bits, torch.device(self.device), self.dtype)

    def own_base(self, recipe: Recipe) -> Base:
        """Give the base as loading would leave it."""
        return Base(Path(), self.model(), torch.device(self.device), self.dtype)

    def peer_base(self) -> PreTrainedModel:
        """Give the base as `prepare_model_for_kbit_training` leaves it, where it is in 4 bits."""
        from peft import prepare_model_for_kbit_training

        if self.quantization == "none":
            return self.model()
        prepared: PreTrainedModel = prepare_model_for_kbit_training(
            self.model(), use_gradient_checkpointing=self.recompute
        )
        return prepared

    def recipe(self, steps: int) -> Recipe:
        """Give the settings that everybody follows."""
        adapter = {"kind": self.adapter} | ({} if self.adapter == "full" else {"rank": self.rank, "alpha": 32})
        return Recipe.model_validate(
            {
                "version": 1,
                "model": {"path": self.model_name, "dtype": str(self.dtype).removeprefix("torch.")},
                "adapter": adapter,
                "quantization": {"kind": self.quantization},
                "data": {"train": {"path": "none"}, "max_length": self.full_rows},
                "training": {
                    "max_steps": steps, "global_batch_size": self.batch_rows, "learning_rate": 1e-4,
                    "schedule": "constant", "warmup": 0, "optimizer": self.optimizer,
                },
            }
        )  # fmt: skip

    def sizes(self, recipe: Recipe) -> Sizes:
        """Fixed, or as a run on this device would choose."""
        if not self.automatic:
            return super().sizes(recipe)
        device = torch.device(self.device)
        workspace = product_workspace_bytes(device)
        return choose_sizes(recipe, self.shape, self.dtype, 1, free_bytes(device, 1), workspace_bytes=workspace)

    def lengths(self, count: int = 64) -> NDArray[np.int64]:
        """Every row is full, and trained whole: the worst case."""
        return np.full(count, self.full_rows)

    @property
    def words(self) -> int:
        """How many words the tokens are drawn from."""
        return int(str(self.shape["vocab_size"]))

    @property
    def question(self) -> MemoryQuestion:
        """What `estimate-vram` is asked for this setting."""
        rows = self.micro_rows or self.batch_rows
        return MemoryQuestion(
            shape=shape_from_config(self.shape, self.model_name),
            adapter=self.recipe(1).adapter,
            quantization=self.bits,
            optimizer=self.optimizer,
            dtype=cast("BaseDtype", str(self.dtype).removeprefix("torch.")),
            max_length=self.full_rows or 0,
            micro_batch_size=rows,
            checkpointing=self.recompute,
            accumulation=rows < self.batch_rows,
            workspace_bytes=product_workspace_bytes(torch.device(self.device)),
        )

    @property
    def flops_per_token(self) -> float:
        """Of the model: what is computed twice counts once."""
        return float(count_work(replace(self.question, checkpointing=False), None, None, None).flops_per_token)
