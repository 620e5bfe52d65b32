"""What an answer of `estimate-vram` takes for granted, and what its user should be warned of."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from lorafit.plan.advice import ROW_STEP, SHORT_ROW_STEP
from lorafit.plan.autos import rows_of_process
from lorafit.plan.base_config import beyond_positions, counted_unquantised
from lorafit.plan.cards import Card
from lorafit.plan.layers import ModelShape
from lorafit.plan.memory import LARGEST_PASS_TOKENS, estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.recompute import in_words
from lorafit.plan.shapes import NamedShape
from lorafit.plan.stack import NEWEST, Stack
from lorafit.plan.targets import ADAPTED_STACKS
from lorafit.plan.units import GIB
from lorafit.plan.unpacked import ROOM_SHARE
from lorafit.plan.work import unknown_speed
from lorafit.recipe.adapters import Dora, Full
from lorafit.recipe.quantization import Unquantized
from lorafit.recipe.schema import Recipe
from lorafit.recipe.sharding import why_unsplit

NOTHING_SAID: Mapping[str, Stack | None] = {}


def warnings(
    recipe: Recipe,
    question: MemoryQuestion,
    found: NamedShape,
    upcast: str | None = None,
    without: Mapping[str, Stack | None] = NOTHING_SAID,
) -> list[str]:
    """What was asked for and goes another way than its user may think.

    `upcast` is as the option said it; `without` has for each habit that was named the stack that has all others.
    """
    said = [
        counted_unquantised(found.taken_as, found.stored),
        beyond_positions(question.max_length, found.config),
        why_unsplit(recipe, question.gpus),
        _unpacked_experts(question),
        _adapted_experts(question),
        *_idle(question, upcast, without),
    ]
    return [each for each in said if each]


def _idle(question: MemoryQuestion, upcast: str | None, without: Mapping[str, Stack | None]) -> Iterator[str]:
    """What was said of transformers and changes nothing in what was asked about."""
    if upcast not in (None, "none") and isinstance(question.quantization, Unquantized):
        yield f"--upcast {upcast} turns nothing to float32: the base is not quantised"
    if not without:
        return
    bytes_with = estimate(question).on_card_bytes
    for habit, stack in without.items():
        if estimate(replace(question, stack=stack)).on_card_bytes == bytes_with:
            yield f"--habit {habit} changes nothing in what was asked about"


def _unpacked_experts(question: MemoryQuestion) -> str:
    """Of most mixtures the larger part is experts, and who knows them from transformers 4 expects them in 4 bits."""
    shape = question.shape
    if isinstance(question.quantization, Unquantized) or shape.expert_parameters <= shape.linear_parameters:
        return ""
    share = shape.expert_parameters / shape.total_parameters
    return (
        f"{share:.0%} of the weights are experts in stacked matrices, as transformers 5 has them, and "
        f"{question.quantization.kind} packs linears only: they stay in {question.dtype}"
    )


def _adapted_experts(question: MemoryQuestion) -> str:
    """PEFT's own `all-linear` is more than lorafit's where it knows the experts of transformers 4."""
    stack, adapter, shape = question.stack, question.adapter, question.shape
    if stack is None or stack.lists_experts or isinstance(adapter, Full) or shape.model_type not in ADAPTED_STACKS:
        return ""
    if adapter.target_modules != "all-linear":
        return ""
    added = stacked_adapter_parameters(shape, adapter.rank) // (question.gpus if question.sharded else 1)
    size = (question.trained_bytes + question.gradient_bytes) * added / GIB
    least = f"at least {size:,.1f} GiB of weights and gradients, not counted here"
    return (
        f"PEFT's own all-linear adapts routers and stacked experts of {shape.model_type} too: "
        f"{'it refuses DoRA there' if isinstance(adapter, Dora) else least}; --target-modules attention leaves them out"
    )


def stacked_adapter_parameters(shape: ModelShape, rank: int) -> int:
    """Values that PEFT's all-linear adds in routers and stacked experts: of each expert, gate and up at twice the rank.

    `_convert_peft_config_moe` in peft/utils/transformers_weight_conversion.py.
    """
    hidden = shape.hidden_size
    every = [layer.mlp.experts for layer in shape.layers if layer.mlp.experts]
    return sum(
        rank * (each.count * (2 * (hidden + 2 * each.width) + each.width + hidden) + hidden + each.count)
        for each in every
    )


def of_card(recipe: Recipe, question: MemoryQuestion, card: Card | None, tokens: int | None) -> list[str]:
    """What a card, or the lack of one, makes of what was asked for."""
    said = []
    if card is not None and not card.bfloat16 and recipe.model.dtype == "bfloat16":
        train = "`train` refuses the recipe there (E5-DTYPE): set model.dtype: float32"
        goes = "counted is what float16 takes too" if question.stack else train
        said.append(f"model.dtype is bfloat16, and {card.name} does not compute in it: {goes}")
    if tokens is not None and (unknown := unknown_speed(question, card)):
        said.append(f"--tokens gives no hours: {'; '.join(unknown)}")
    return said


def assumptions(recipe: Recipe, question: MemoryQuestion, card: Card | None) -> list[str]:
    """What the answer takes for granted."""
    length = question.max_length
    said = [f"every row is full ({length:,} tokens) and the loss counts every token, the most a step can hold"]
    if question.classes:
        said = [f"every row is full ({length:,} tokens); a head of {question.classes:,} classes reads its last token"]
    if recipe.model.dtype == "auto":
        reason = "a card that computes in it" if card is None or card.bfloat16 else f"{card.name} has no bfloat16"
        what = "products" if question.is_full and question.trained_bytes == 4 else "base weights"
        said.append(f"{what} in {question.dtype}: {reason}")
    if recipe.training.gradient_checkpointing == "auto":
        choice = in_words(question.recomputed, len(question.shape.layers), offloaded=question.offloaded)
        why = (
            ", the fewest that fit" if question.recomputed_layers else "" if question.recomputed else ", since they fit"
        )
        said.append(f"gradient_checkpointing auto: {choice}{why}")
    if recipe.training.micro_batch_size == "auto":
        said.append(f"micro_batch_size auto is {question.micro_batch_size}: {_why_so_many(recipe, question, card)}")
    if card is not None and not question.shape.read_off:
        said.append(f"the longest row is looked for in steps of {ROW_STEP} tokens, below that of {SHORT_ROW_STEP}")
    if question.unpacked_layers:
        layers = f"{question.unpacked_layers} of {len(question.shape.layers)} layers"
        said.append(
            f"keep_unpacked auto: {layers} stay unpacked, as many as {ROOM_SHARE:.0%} of the card hold, for less time"
        )
    if question.stack:
        said += _assumed_of(question, question.stack, card)
    if question.gpus > recipe.training.global_batch_size and not question.stack:
        rows = recipe.training.global_batch_size
        said.append(f"of {question.gpus:,} GPUs all but {rows:,} idle: training.global_batch_size is {rows:,}")
    if question.gpus > 1:
        holds = "a part of the base, and gathers a layer while it is used" if question.sharded else "the whole model"
        said.append(
            f"each of {question.gpus} GPUs holds {holds}; gradients are added up between them, and NCCL's own buffers "
            "(some hundred MiB) come on top; no speed or hours count the time of that"
        )
    return [*said, *question.shape.notes]


def _assumed_of(question: MemoryQuestion, stack: Stack, card: Card | None) -> list[str]:
    """What plain transformers does, where it is not as lorafit does it."""
    updates = "in place" if stack.fused_optimizer else "over lists of tensors"
    products = "with bf16 autocast" if question.autocast else "without autocast"
    narrow = stack.narrow_adapters and question.compute_bytes == 2
    adapters = "" if question.is_full else ", adapters in the base's 16 bits" if narrow else ", adapters in float32"
    logits = "all logits at once" if stack.loss == "full" else "logits a chunk at a time"
    cache = ", use_cache left on" if stack.cache else ""
    said = [f"{stack.name}: the Trainer {products}{adapters}, {logits}, AdamW {updates}{cache}"]
    if question.is_full and question.sharded and question.autocast:
        said.append("under FSDP with autocast accelerate turns trained weights to float32")
    if card is not None and not card.bfloat16 and question.dtype == "float32":
        said.append(f"{card.name} trains in float32; a float16 run takes what --set model.dtype=bfloat16 counts")
    if stack.version[:2] > NEWEST:
        said.append(f"{stack.name} does as transformers@{NEWEST[0]}.{NEWEST[1]}, the newest that was read")
    if not isinstance(question.quantization, Unquantized):
        kept = {"none": "nothing", "norms": "the norms", "all": "norms, embedding and head"}[stack.upcast]
        said.append(f"before training {kept} turned to float32 (--upcast {stack.upcast}; PEFT's own default is all)")
    return said


def _why_so_many(recipe: Recipe, question: MemoryQuestion, card: Card | None) -> str:
    if card is None:
        return "name a card with --gpu for as many as fit"
    rows = rows_of_process(recipe, question.gpus)
    among = f"among the divisors of the {rows:,} rows of a step, and up to {LARGEST_PASS_TOKENS:,} tokens a pass"
    return f"the most that fit {among}"
