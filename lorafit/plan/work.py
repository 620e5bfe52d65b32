"""How long a run takes: operations and bytes by the shapes, and the share of a card's speed that programs reach."""

import math
from typing import NamedTuple

from lorafit.errors import RecipeError
from lorafit.plan.cards import Card
from lorafit.plan.question import MemoryQuestion
from lorafit.recipe.adapters import Dora
from lorafit.recipe.quantization import Int8, Unquantized

# Of the data sheet's peak, counting what is computed, recomputation included: plain transformers + PEFT reach 21 to
# 25 %, the best published LoRA runs 43 % on an H100 (NeMo), 59 % on an A100 (torchtune), 61 % on two RTX 4090
# (fsdp_qlora).
LOW_SHARE, HIGH_SHARE = 0.21, 0.6
# Of the data sheet's bandwidth, as weights are unpacked: in torchtune's README an 8B model at two rows of 2,048 on a
# RTX 4090 trains 3,083 tokens a second in LoRA and 2,413 in QLoRA, which are 0.37 s a pass for 53 GB, 14 %; a kernel of
# one launch comes near a copy's 80 %.
LOW_BANDWIDTH_SHARE, HIGH_BANDWIDTH_SHARE = 0.14, 0.8
HOUR_SECONDS = 3600
NAME_A_CARD = "name one whose speed is known with --gpu, such as rtx-4090"
IN_16_BITS = "ask with --set model.dtype=bfloat16, or go without"


class Work(NamedTuple):
    """Operations of a token, and from them a range of speeds; fast and slow are over all GPUs."""

    flops_per_token: int
    recomputed_flops_per_token: int  # of these, what recomputation adds
    moved_bytes: int  # weights that a pass reads and writes beside its products, whatever its tokens
    pass_tokens: int
    card: Card | None  # whose speed is known
    gpus: int
    tokens: int | None
    price_per_hour: float | None

    @property
    def tokens_per_second(self) -> tuple[float, float] | None:
        """Slowest and fastest, in 16 bits; None without a card of known speed."""
        if self.card is None or self.card.tflops is None:
            return None
        computing = self.flops_per_token / (self.card.tflops * 1e12)
        moving = self.moved_bytes / self.pass_tokens / (self.card.gigabytes_per_second * 1e9)
        slow = computing / LOW_SHARE + moving / LOW_BANDWIDTH_SHARE
        fast = computing / HIGH_SHARE + moving / HIGH_BANDWIDTH_SHARE
        return self.gpus / slow, self.gpus / fast

    @property
    def hours(self) -> tuple[float, float] | None:
        """Shortest and longest; None where the tokens or the speed are not known."""
        speeds = self.tokens_per_second
        if speeds is None or self.tokens is None:
            return None
        return self.tokens / speeds[1] / HOUR_SECONDS, self.tokens / speeds[0] / HOUR_SECONDS

    @property
    def cost(self) -> tuple[float, float] | None:
        """Lowest and highest, of all GPUs."""
        if self.hours is None or self.price_per_hour is None:
            return None
        return self.hours[0] * self.gpus * self.price_per_hour, self.hours[1] * self.gpus * self.price_per_hour

    def as_json(self) -> dict[str, object]:
        """Give the facts for a program; each range is [low, high]."""
        return {
            "flops_per_token": self.flops_per_token,
            "recomputed_flops_per_token": self.recomputed_flops_per_token,
            "moved_bytes_per_pass": self.moved_bytes,
            "tokens_per_second": _range(self.tokens_per_second),
            "hours": _range(self.hours),
            "cost": _range(self.cost),
        }

    def as_text(self) -> str:
        """Give the facts for a person."""
        giga = self.flops_per_token / 1e9
        lines = [f"Work: {giga:{',.0f' if giga >= 100 else '.3g'}} GFLOP a token"]
        if self.recomputed_flops_per_token:
            lines[0] += f", {self.recomputed_flops_per_token / self.flops_per_token:.0%} of it recomputation"
        if self.moved_bytes:
            moved = f"{self.moved_bytes / 1e9:,.3g} GB of weights read and written beside the products"
            lines[0] += f"; {moved} in each pass of {self.pass_tokens:,} tokens"
        if self.tokens_per_second:
            low, high = self.tokens_per_second
            shares = f"{LOW_SHARE:.0%} to {HIGH_SHARE:.0%} of its peak"
            if self.moved_bytes:
                shares += f", {LOW_BANDWIDTH_SHARE:.0%} to {HIGH_BANDWIDTH_SHARE:.0%} of its memory's speed"
            lines.append(f"Speed: {low:,.0f} to {high:,.0f} tokens a second ({shares})")
        if self.hours:
            lines.append(f"Time: {_span(*self.hours)}")
        if self.cost:
            lines.append(f"Cost: {self.cost[0]:,.2f} to {self.cost[1]:,.2f}")
        return "\n".join(lines)


def _span(low_hours: float, high_hours: float) -> str:
    """A range of times, in minutes where hours would say nothing."""
    if high_hours < 1:
        return f"{60 * low_hours:.1f} to {60 * high_hours:.1f} minutes"
    return f"{low_hours:.1f} to {high_hours:.1f} hours"


def _range(found: tuple[float, float] | None) -> list[float] | None:
    return None if found is None else list(found)


def work(question: MemoryQuestion, card: Card | None, tokens: int | None, price_per_hour: float | None) -> Work:
    """Count the operations of a step. Raises RecipeError for a price without tokens or a card of known speed."""
    if price_per_hour is not None and (card is None or tokens is None):
        raise RecipeError(
            "a price needs the time it is paid for",
            where="--price-per-hour",
            fix="add --gpu and --tokens",
            code="E2-USAGE",
        )
    unknown = unknown_speed(question, card)
    if price_per_hour is not None and unknown:
        raise RecipeError(
            unknown[0],
            where="--price-per-hour",
            fix=unknown[1],
            code="E2-USAGE",
        )
    share = question.recomputed / len(question.shape.layers)
    again = round(share * _recomputed(question))
    found = Work(
        flops_per_token=_flops(question) + again,
        recomputed_flops_per_token=again,
        moved_bytes=round((2 + share) * _unpacked_bytes(question) + (1 + share) * _normed_bytes(question)),
        pass_tokens=question.tokens,
        card=None if unknown else card,
        gpus=question.gpus,
        tokens=tokens,
        price_per_hour=price_per_hour,
    )
    if found.cost and not math.isfinite(found.cost[1]):
        raise RecipeError(
            f"a cost at {price_per_hour} an hour is beyond all numbers",
            where="--price-per-hour",
            fix="give a number: --price-per-hour 2.5",
            code="E2-USAGE",
        )
    return found


def unknown_speed(question: MemoryQuestion, card: Card | None) -> tuple[str, str] | None:
    """Say why nothing is known of a card's speed, and what to do; None where it is known."""
    if card is None:
        return "no card is named", NAME_A_CARD
    if card.tflops is None:
        return f"no speed is known of {card.name}", NAME_A_CARD
    if question.compute_bytes == 4:
        return f"of {card.name} the speed of 16-bit products is known, and model.dtype is float32", IN_16_BITS
    return None


def _flops(question: MemoryQuestion) -> int:
    """4 N + 6 A + 6 s h L: forward and backward; with all weights trained their own gradients come on top."""
    weights = _body_weights(question) + _head_weights(question) + _dropped_weights(question)
    each = 6 if question.is_full else 4
    trained = _adapter_weights(question) + _class_weights(question)
    return each * weights + 6 * trained + 3 * _attention(question)


def _recomputed(question: MemoryQuestion) -> int:
    """The forward of all layers once more, without the head."""
    weights = _body_weights(question) + _dropped_weights(question)
    return 2 * weights + 2 * _adapter_weights(question) + _attention(question)


def _unpacked_bytes(question: MemoryQuestion) -> int:
    """Read and written where all quantised weights are unpacked once, as each forward and backward does."""
    if isinstance(question.quantization, Unquantized):
        return 0
    packed = 1 if isinstance(question.quantization, Int8) else 1 / 2 + 1 / 64
    share = 1 - question.unpacked_layers / len(question.shape.layers)
    return round(share * question.shape.linear_parameters * (packed + question.compute_bytes))


def _normed_bytes(question: MemoryQuestion) -> int:
    """DoRA goes over the weights that it adapts once more in each forward, for the norms of their rows."""
    return question.compute_bytes * _target_weights(question) if isinstance(question.adapter, Dora) else 0


def _dropped_weights(question: MemoryQuestion) -> int:
    """Weights that DoRA multiplies twice: by its input, and by what dropout leaves of it."""
    adapter = question.adapter
    return _target_weights(question) if isinstance(adapter, Dora) and adapter.dropout else 0


def _target_weights(question: MemoryQuestion) -> int:
    return sum(linear.in_features * linear.out_features for linear in question.targets)


def _body_weights(question: MemoryQuestion) -> int:
    """Weights that a token meets inside the layers: of experts, only those that are picked."""
    met = question.shape.linear_parameters + question.shape.expert_parameters
    for layer in question.shape.layers:
        experts = layer.mlp.experts
        if experts:
            listed = sum(linear.weights for trio in experts.listed for linear in trio)
            met -= (experts.parameters + listed) * (experts.count - experts.per_token) // experts.count
    return met


def _head_weights(question: MemoryQuestion) -> int:
    """Weights of the output head that a token meets; a classifier has none."""
    if question.classes:
        return 0
    return round(question.shape.vocab_size * question.shape.hidden_size * question.target_share)


def _class_weights(question: MemoryQuestion) -> int:
    """Weights of a classification head, which one token of each row meets."""
    return round(question.head_parameters / question.max_length)


def _adapter_weights(question: MemoryQuestion) -> int:
    """Weights of adapters that a token meets: those of listed experts as far as the experts are picked."""
    experts = next((layer.mlp.experts for layer in question.shape.layers if layer.mlp.experts), None)
    picked = experts.per_token / experts.count if experts else 1.0
    met = (
        (linear.in_features + linear.out_features) * (picked if linear.kind == "expert" else 1)
        for linear in question.targets
    )
    return round(question.rank * sum(met))


def _attention(question: MemoryQuestion) -> int:
    """2 s h a layer for scores and their mix, half of the square being masked."""
    return sum(2 * question.max_length * layer.attention.query_width for layer in question.shape.layers)
