"""What the memory model is asked, and what it answers with."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from lorafit.plan.layers import Linear, Matched, ModelShape
from lorafit.plan.stack import Stack
from lorafit.plan.targets import match_targets
from lorafit.plan.workspace import WORKSPACE_BYTES
from lorafit.recipe.adapters import Adapter, Full
from lorafit.recipe.optimizers import OPTIMIZERS, OptimizerName
from lorafit.recipe.quantization import Quantization, Unquantized

Verdict = Literal["fits", "tight", "does not fit"]
BaseDtype = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class MemoryQuestion:
    """A training step of one process, as far as its memory goes."""

    shape: ModelShape
    adapter: Adapter
    quantization: Quantization
    optimizer: OptimizerName = "adamw"
    dtype: BaseDtype = "bfloat16"
    max_length: int = 2048
    micro_batch_size: int = 1
    checkpointing: bool = True
    recomputed_layers: int | None = None  # so many of the first ones; None: all of them, where there is checkpointing
    offloaded: bool = False  # the inputs that recomputed layers keep wait on the host
    accumulation: bool = True  # several micro-batches per step: gradients live during the next forward
    gpus: int = 1
    sharded: bool = False  # the frozen base is split over them, a layer gathered while it is used
    unpacked_layers: int = 0  # so many of the first ones of a 4-bit base, which stay as they enter a product
    explicit_attention: bool = False  # `model.attention: eager`
    full_logits: bool = False  # the loss holds all logits at once, as transformers' own does
    stack: Stack | None = None  # plain transformers in place of lorafit's own loop
    classes: int = 0  # of a classification head, which then takes the place of the output head; 0 without one
    target_share: float = 1.0  # of the tokens that the loss counts, and that therefore have logits
    workspace_bytes: int = WORKSPACE_BYTES  # of cuBLAS, on all handles; it goes by the card

    def with_rows(self, rows: int, step_rows: int) -> "MemoryQuestion":
        """Ask for so many rows a pass: with fewer than a process has in a step, gradients wait from pass to pass."""
        return replace(self, micro_batch_size=rows, accumulation=rows < step_rows)

    @property
    def tokens(self) -> int:
        """Tokens of a forward pass: full rows, the worst case."""
        return self.micro_batch_size * self.max_length

    @property
    def target_tokens(self) -> int:
        """Tokens with logits."""
        return round(self.tokens * self.target_share)

    @property
    def weight_bytes(self) -> int:
        """Of a base weight that is not quantised.

        Full fine-tuning holds all in float32, but under transformers in the base's own dtype; under FSDP with autocast
        accelerate turns trained weights to float32.
        """
        wide = self.stack is None or (self.sharded and self.stack.amp)
        return 4 if (self.is_full and wide) or self.dtype == "float32" else 2

    @property
    def norm_bytes(self) -> int:
        """Of a weight of the norms."""
        return 4 if self._upcast != "none" else self.weight_bytes

    @property
    def narrow_norms(self) -> bool:
        """Norms are torch's own LayerNorm, in the 16 bits of what they read."""
        return self.shape.layers[-1].norm == "layer" and not self.autocast and self.compute_bytes == 2

    @property
    def normed_bytes(self) -> int:
        """Of a value that a norm of transformers gives: autocast has torch's LayerNorm in float32."""
        wide = self.shape.layers[-1].norm == "layer" and self.autocast
        return 4 if wide else max(self.norm_bytes, self.compute_bytes)

    @property
    def embedding_bytes(self) -> int:
        """Of a weight of the embedding, of the head, and of whatever else is not quantised."""
        return 4 if self._upcast == "all" else self.weight_bytes

    @property
    def stream_bytes(self) -> int:
        """Of a value that the embedding gives."""
        return self.compute_bytes if self.is_full and self.sharded else self.embedding_bytes

    @property
    def _upcast(self) -> str:
        quantized = not isinstance(self.quantization, Unquantized)
        # a unit of FSDP has one dtype, so that under it the upcast is undone
        return self.stack.upcast if self.stack and quantized and not self.sharded else "none"

    @property
    def trained_bytes(self) -> int:
        """Of a trained weight, and of its gradient: float32, but where transformers trains in the base's own."""
        if self.is_full:
            return self.weight_bytes
        return self.compute_bytes if self.stack and self.stack.narrow_adapters else 4

    @property
    def gradient_bytes(self) -> int:
        """Of a trained weight's gradient that waits for the update."""
        return 0 if self.stack and self.stack.steps_in_backward else self.trained_bytes

    @property
    def autocast(self) -> bool:
        """Products run in 16 bits whatever their operands are."""
        return self.compute_bytes == 2 and (self.stack is None or self.stack.amp)

    @property
    def fused(self) -> bool:
        """Adapters, norms and gated MLPs have a backward of lorafit's own, which keeps little."""
        return self.stack is None and not self.is_full

    @property
    def copies_weights(self) -> bool:
        """Autocast keeps 16-bit copies of trained weights, but for those that lorafit's own linear reads.

        FSDP gathers weights as they are computed in.
        """
        gathered = self.is_full and self.sharded
        return self.autocast and self.trained_bytes == 4 and not self.fused and not gathered

    @property
    def compute_bytes(self) -> int:
        """Of an activation in a product."""
        return 4 if self.dtype == "float32" else 2

    @property
    def is_full(self) -> bool:
        """Every weight is trained."""
        return isinstance(self.adapter, Full)

    @property
    def recomputed(self) -> int:
        """Layers, from the first on, that keep their input and compute the rest again."""
        layers = len(self.shape.layers)
        return 0 if not self.checkpointing else min(layers, self.recomputed_layers or layers)

    @property
    def keeps_worked_layers(self) -> bool:
        """Inputs of recomputed layers and their gradients stay to the end of the backward.

        FSDP hooks a unit without trained weights to the input that reentrant checkpointing detached, and the hook holds
        that leaf with its gradient until its last callback (`_register_post_backward_reshard_only_hook` in
        torch/distributed/fsdp/_runtime_utils.py, `AccumulateGrad`). Recomputation is reentrant before version 5.
        """
        frozen = self.sharded and not self.is_full and self.checkpointing
        return frozen and self.stack is not None and self.stack.reenters

    @property
    def flat_trained(self) -> bool:
        """Trained weights lie in one buffer, and their gradients in another from the end of a first pass on."""
        return self.stack is None and not self.is_full and OPTIMIZERS[self.optimizer].takes_flat

    @property
    def plain_head(self) -> bool:
        """The head is frozen and all there is to the logits, so that they are made a chunk at a time."""
        return not (
            self.stack or self.full_logits or self.is_full or self.shape.capped_logits or self.shape.scaled_logits
        )

    @property
    def chunked_head(self) -> bool:
        """Logits are made and dropped a chunk at a time."""
        return self.plain_head or (self.stack is not None and self.stack.loss == "fused")

    @property
    def head_parameters(self) -> int:
        """Values of the classification head."""
        return self.classes * self.shape.hidden_size

    @property
    def vocabulary_matrices(self) -> int:
        """Matrices as large as the vocabulary: the embedding, and the output head if it is another."""
        return 1 if self.shape.tied or self.classes else 2

    @property
    def embedding_parameters(self) -> int:
        """Values in those."""
        return self.vocabulary_matrices * self.shape.vocab_size * self.shape.hidden_size

    @property
    def total_parameters(self) -> int:
        """Of the model without its adapter: a language model, or a classifier with its head."""
        return (
            self.shape.total_parameters
            - self.shape.embedding_parameters
            - self.shape.other_parameters
            + self.embedding_parameters
            + self.other_parameters
            + self.head_parameters
        )

    @property
    def other_parameters(self) -> int:
        """Norms, biases, routers: a classifier has no output head, and no bias of one."""
        return self.shape.other_parameters - (self.shape.head_biases if self.classes else 0)

    @property
    def method(self) -> str:
        """The usual name: `lora`, `qlora` (any quantised base), `dora`, `qdora`, `full`."""
        return self.adapter.kind if isinstance(self.quantization, Unquantized) else f"q{self.adapter.kind}"

    @property
    def rank(self) -> int:
        """Of the adapter; 0 without one."""
        return 0 if isinstance(self.adapter, Full) else self.adapter.rank

    @cached_property
    def matched(self) -> Matched:
        """What carries an adapter. Raises RecipeError when the recipe's targets match nothing."""
        older = self.stack is not None and self.stack.version < (5,)  # experts were linears like others
        kind = None if older else self.shape.model_type
        known = self.shape.matches  # the same for every length, rank and batch that is asked about
        key = ("" if isinstance(self.adapter, Full) else repr(self.adapter.target_modules), kind)
        if key not in known:
            known[key] = self.shape.matched(self._target_names(kind))
        return known[key]

    def _target_names(self, kind: str | None) -> set[str]:
        if isinstance(self.adapter, Full):
            return set()
        names = [linear.name for linear in self.shape.linears()]
        return set(match_targets(self.adapter.target_modules, names, kind))

    @property
    def targets(self) -> list[Linear]:
        """The linears that carry an adapter. Raises RecipeError when the recipe's targets match nothing."""
        return self.matched.linears


class Component(NamedTuple):
    """One part of a sum of bytes, with the arithmetic that gave it."""

    name: str
    bytes: int
    formula: str
    passing: bool = False  # made and dropped within a pass, so that the allocator may leave holes behind it


class Estimate(NamedTuple):
    """Bytes per GPU. `components` add up to `peak_bytes`; reserved, context and paged bytes come on top."""

    peak_bytes: int
    low_bytes: int
    high_bytes: int
    peak_phase: str
    components: tuple[Component, ...]
    phases: dict[str, int]  # the most that is allocated in each phase
    reserved_bytes: int  # held by torch beyond the peak: holes between tensors
    context_bytes: int  # CUDA context and kernels, outside torch
    paged_bytes: int  # optimizer states in managed memory, which the driver evicts when the card is full
    host_bytes: int  # pinned memory of this machine, for what recomputed layers keep there
    trainable_parameters: int
    total_parameters: int

    @property
    def on_card_bytes(self) -> int:
        """What nvidia-smi would show: everything but what can be evicted."""
        return self.peak_bytes + self.reserved_bytes + self.context_bytes

    @property
    def least_on_card_bytes(self) -> int:
        """The same once torch has given back the holes between tensors."""
        return self.peak_bytes + self.context_bytes

    def verdict(self, capacity_bytes: int) -> Verdict:
        """Set it on a card. Tight: the tensors fit, the holes that torch leaves between them may not."""
        if self.on_card_bytes <= capacity_bytes:
            return "fits"
        return "tight" if self.least_on_card_bytes <= capacity_bytes else "does not fit"
