"""What every adapter of the LoRA family shares: rank, scale, targets."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lorafit.recipe.spec import Spec

if TYPE_CHECKING:
    from peft import LoraConfig


class RegexTargets(Spec):
    """Modules whose full dotted name matches a regular expression."""

    regex: str = Field(min_length=1, max_length=500, description="Python regular expression, matched in full.")


ModuleNames = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(min_length=1)]
TargetModules = Literal["all-linear", "attention", "mlp"] | ModuleNames | RegexTargets


class LowRank(Spec):
    """The update of a frozen weight W [out, in] as scale * B A, with A [rank, in] and B [out, rank]."""

    rank: int = Field(default=16, ge=1, le=4096, description="Width of the update; 8 to 64 suits most tasks.")
    alpha: float = Field(
        default=32.0,
        gt=0,
        le=1e6,
        description="Scale of the update: alpha / rank, or alpha / sqrt(rank) with rslora.",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of the adapter's input zeroed in training.")
    target_modules: TargetModules = Field(
        default="all-linear",
        description=(
            "Layers that get an adapter: `all-linear` (attention and MLP, no head, no router), `attention`, "
            '`mlp`, a list of names (last part, or full dotted name), or `{regex: "..."}`.'
        ),
    )
    rslora: bool = Field(default=False, description="Scale by alpha / sqrt(rank) (arXiv 2312.03732).")
    init_from: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="Folder of an existing PEFT adapter to continue from; kind, rank, alpha and layers must agree.",
    )

    @property
    def scale(self) -> float:
        """The factor in front of B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def trainable_parameters(self, linears: Iterable[tuple[int, int]]) -> int:
        """Count the trained numbers for target weights given as (in, out)."""
        return sum(self.rank * (d_in + d_out) for d_in, d_out in linears)

    def build(self, targets: list[str], **variant: Any) -> "LoraConfig":
        """Make PEFT's configuration for exactly these modules (full dotted names)."""
        from peft import LoraConfig, TaskType

        return LoraConfig(
            r=self.rank,
            # PEFT types alpha as an int, but stores and multiplies by what it is given
            lora_alpha=int(self.alpha) if self.alpha.is_integer() else self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=targets,
            use_rslora=self.rslora,
            bias="none",
            task_type=TaskType.CAUSAL_LM,
            **variant,
        )
