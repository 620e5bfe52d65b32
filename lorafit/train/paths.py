"""Which way a run takes through the engine, and why not a faster one: for its first lines, and for `doctor`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from lorafit.errors import ModelError
from lorafit.model.adapt import base_of
from lorafit.model.classify import is_classifier
from lorafit.model.fast_linear import slow_linears
from lorafit.model.head_loss import frozen_head
from lorafit.plan.layers import ModelShape
from lorafit.plan.shapes import shape_from_config
from lorafit.plan.unpacked import why_packed
from lorafit.recipe.adapters import Full
from lorafit.recipe.optimizers import OPTIMIZERS
from lorafit.recipe.quantization import Bits4
from lorafit.recipe.schema import Recipe
from lorafit.report.finding import Finding, Status
from lorafit.train.optimizer import paging_notice
from lorafit.train.sizes import Sizes

CAPPED = "the model caps its logits"
SCALED = "the model scales its logits"
NO_TABLE = "what would fit is not known of this family; `gradient_checkpointing: none` keeps them"
TRAINED = "the head is trained"
HIDDEN = "the head is not all there is to the logits"


@dataclass(frozen=True)
class Way:
    """What decides: the recipe, where it runs, and what the model makes of the fast paths."""

    recipe: Recipe
    device: torch.device
    dtype: torch.dtype
    sizes: Sizes
    scores: str  # why attention writes out every score; "" where fused kernels serve
    head: str | None  # why logits are made whole; "" where they are chunked, None for a classifier
    adapter: str | None  # why layers keep PEFT's forward; "" where none does, None without an adapter

    def findings(self) -> list[Finding]:
        """Say it all, a path a line."""
        linears = [] if self.adapter is None else [self.linears(self.adapter)]
        base = [self.base()] if isinstance(self.recipe.quantization, Bits4) else []
        return [self.attention(), *base, *linears, self.loss(), self.recompute(), self.optimizer(), self.precision()]

    def attention(self) -> Finding:
        """Name the kernel that keeps packed documents apart."""
        named = self.recipe.model.attention
        if named == "flash_attention_2":
            return _path("attention", "on", "flash-attention, which keeps documents apart by itself")
        if self.scores or named == "eager":
            return _path("attention", "off", f"every score of a document is written out: {self.scores or 'eager'}")
        if self.device.type == "cuda" and self.dtype != torch.float32:
            return _path("attention", "on", "torch's variable-length kernel, all documents of a row at once")
        why = "there is no card" if self.device.type == "cpu" else "float32"
        return _path("attention", "on", f"torch's SDPA, document by document: {why} for the variable-length kernel")

    def base(self) -> Finding:
        """Say how many layers of a 4-bit base need no unpacking, and why others do."""
        again, layers = self.sizes.unpacked_layers, self.sizes.layers
        if again and again == layers:
            return _path("4-bit base", "on", "every layer is unpacked once and stays so: there is room")
        question = self.sizes.question
        why = why_packed(question) if question else "this architecture's memory is not known"
        why = why or "there is no room, or was none when the run began"
        which = f"{layers - again} of {layers} layers" if again and layers else "every layer"
        return _path("4-bit base", "off", f"{which} unpacked anew for each product: {why}")

    def linears(self, why: str) -> Finding:
        """Say whether the layers with an adapter have a backward of their own."""
        if why:
            return _path("adapter", "off", f"PEFT's own forward: {why}")
        return _path("adapter", "on", "a layer's input kept once, no copy of a weight, dropout drawn again")

    def loss(self) -> Finding:
        """Say whether logits are ever there as a whole."""
        if self.head is None:
            return _path("loss", "on", "a head of classes, on the last token of each document")
        if self.head:
            return _path("loss", "off", f"logits of all targets at once: {self.head}")
        return _path("loss", "on", "logits of targets only, a chunk at a time, their gradient in the forward")

    def recompute(self) -> Finding:
        """Say whether time is paid for memory."""
        again = self.sizes.recomputed_layers
        if again != 0:
            why = "a row does not fit without" if self.sizes.question else NO_TABLE
            if self.recipe.training.gradient_checkpointing in ("full", "offloaded"):
                why = "as the recipe says"
            which = "every layer" if again in (None, self.sizes.layers) else f"{again} of {self.sizes.layers} layers"
            kept = ", from inputs that wait on the host" if self.sizes.offloaded else ""
            return _path("activations", "off", f"those of {which} are computed twice{kept}: {why}")
        return _path("activations", "on", "kept: nothing is computed twice")

    def optimizer(self) -> Finding:
        """Name the update, and where its moments are."""
        kind, on_card = OPTIMIZERS[self.recipe.training.optimizer], self.device.type == "cuda"
        if kind.bits == 32 and not (kind.paged and on_card):
            what = "torch's fused AdamW"
        else:
            what = f"bitsandbytes' AdamW, {kind.bits}-bit moments"
        if kind.paged and on_card:
            what += ", paged to the host when the card is full"
        notice = paging_notice(self.recipe.training, self.device)
        return _path("optimizer", "on", f"{what}; {notice}" if notice else what)

    def precision(self) -> Finding:
        """Say what products are computed in."""
        name = str(self.dtype).removeprefix("torch.")
        if self.dtype == torch.float32:
            return _path("precision", "on" if self.device.type == "cpu" else "off", "float32 throughout")
        return _path("precision", "on", f"products in {name}, adapter and its moments in float32")


def way_by_shape(
    recipe: Recipe, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, sizes: Sizes, classes: int
) -> Way:
    """Foresee the way from the model's config.json."""
    shape = _known_shape(config)
    head = TRAINED if isinstance(recipe.adapter, Full) else _head_by_shape(shape)
    adapter = None if isinstance(recipe.adapter, Full) else ""
    return Way(recipe, device, dtype, sizes, _scores(shape), None if classes else head, adapter)


def way_of(
    recipe: Recipe,
    config: Mapping[str, Any],
    model: PreTrainedModel,
    device: torch.device,
    dtype: torch.dtype,
    sizes: Sizes,
) -> Way:
    """Say it of the model that is about to be trained."""
    base, shape = base_of(model), _known_shape(config)
    head = None if is_classifier(base) else _why_whole(base, shape)
    adapter = None if isinstance(recipe.adapter, Full) else "; ".join(slow_linears(model))
    return Way(recipe, device, dtype, sizes, _scores(shape), head, adapter)


def _known_shape(config: Mapping[str, Any]) -> ModelShape | None:
    try:
        return shape_from_config(config, "config.json")
    except ModelError:
        return None


def _scores(shape: ModelShape | None) -> str:
    return "the model caps its scores or adds sinks" if shape and shape.explicit_attention else ""


def _head_by_shape(shape: ModelShape | None) -> str:
    if shape is None:
        return ""
    return CAPPED if shape.capped_logits else SCALED if shape.scaled_logits else ""


def _why_whole(base: PreTrainedModel, shape: ModelShape | None) -> str:
    if frozen_head(base) is not None:
        return ""
    head: Any = base.get_output_embeddings()
    if head is not None and any(p.requires_grad for p in head.parameters()):
        return TRAINED
    return _head_by_shape(shape) or HIDDEN


def _path(name: str, status: Status, what: str) -> Finding:
    return Finding("path", name, status, what)
