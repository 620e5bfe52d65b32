"""What would save memory, what else would fit: each answer is an estimate of its own, with one thing changed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.recompute import in_words
from lorafit.plan.targets import part_of
from lorafit.recipe.adapters import Dora, Full, Lora
from lorafit.recipe.quantization import Bits4, Int8, Nf4, Unquantized
from lorafit.recipe.schema import Recipe
from lorafit.recipe.sharding import why_whole

LEAST_SAVED_BYTES = 2**20
MOST_ROWS = 2**16
LONGEST_ROW = 2**22  # no recipe asks for more tokens in a row
ROW_STEP = 256  # tokens, by which the longest row is looked for
SHORT_ROW_STEP = 8  # where not even one of those fits: no recipe asks for fewer tokens
LOOKS_ALONG_LINES = 8
TO_BFLOAT16 = "model.dtype: bfloat16"
MOST_SHARING = 8  # cards of one machine
FARTHEST = 8  # times the last count, where no line shows how far


class Advice(NamedTuple):
    """One change to the recipe, and the bytes by which it lowers the peak."""

    change: str
    saves_bytes: int


class Reach(NamedTuple):
    """How far a card takes a recipe in one way to recompute; 0 where not even a short row fits."""

    recomputation: str
    most_rows: int  # a pass, at the row length that was asked about
    longest_row: int  # tokens, one row a pass
    host_bytes: int  # pinned memory of this machine that the longest row takes

    def as_json(self) -> dict[str, object]:
        """Give the same for a program."""
        return {
            "recomputation": self.recomputation,
            "largest_micro_batch_size": self.most_rows,
            "longest_row_tokens": self.longest_row,
            "host_bytes": self.host_bytes,
        }


def reaches(
    question: MemoryQuestion,
    capacity_bytes: int,
    step_rows: int,
    *,
    auto: bool,
    splits: bool = False,
    readable: int | None = None,
) -> list[Reach]:
    """Say how far the card goes: as the recipe has it, or under `auto` on each of its last two steps.

    Under `auto` what was chosen for the length asked about is no limit: a longer row is recomputed, in the end from the
    host; and with `splits`, of a base that several cards may share, it is shared. Layers are unpacked into what room is
    left, and count for nothing here. `step_rows` are those of a process in a step; `readable` is the most tokens that
    the model can read, where that has an end.
    """
    steps = [replace(question, unpacked_layers=0)]
    if auto:
        steps = [replace(steps[0], checkpointing=True, recomputed_layers=None, offloaded=False)]
        steps += [] if question.stack else [replace(steps[0], offloaded=True)]
    if splits and not question.sharded:
        steps.append(replace(steps[-1], sharded=True))
    return [_reach(each, capacity_bytes, step_rows, readable) for each in steps]


def _reach(question: MemoryQuestion, capacity_bytes: int, step_rows: int, readable: int | None) -> Reach:
    found = longest_row(question, capacity_bytes, step_rows)
    length = found if readable is None else min(found, readable)
    longest = replace(question.with_rows(1, step_rows), max_length=max(1, length))
    return Reach(
        recomputation=in_words(question.recomputed, len(question.shape.layers), offloaded=question.offloaded)
        + (", the base split" if question.sharded else ""),
        most_rows=0 if readable and question.max_length > readable else most_rows(question, capacity_bytes, step_rows),
        longest_row=length,
        host_bytes=estimate(longest).host_bytes if length and question.offloaded else 0,
    )


def fewest_sharing(recipe: Recipe, question: MemoryQuestion, capacity_bytes: int) -> int | None:
    """Give how many such cards hold it with the base split over them, as `training.sharding: auto` does; None: none."""
    if question.gpus > 1 or recipe.training.sharding == "none" or why_whole(recipe):
        return None
    alone = replace(question, unpacked_layers=0, sharded=True)
    counts = range(2, min(MOST_SHARING, recipe.training.global_batch_size) + 1)  # one more would have no row
    return next((n for n in counts if estimate(replace(alone, gpus=n)).on_card_bytes <= capacity_bytes), None)


def advise(
    question: MemoryQuestion, peak: int | None = None, *, bfloat16: bool = True, readable: int | None = None
) -> list[Advice]:
    """List single changes that lower the peak, the largest saving first; `bfloat16`: the card computes in it.

    `peak` is that of the question in bytes, where it is known, and `readable` the most tokens that the model can read.
    """
    peak = peak or estimate(question).peak_bytes
    changes = [each for each in _changes(question, readable) if bfloat16 or each[0] != TO_BFLOAT16]
    advice = [Advice(change, peak - estimate(changed).peak_bytes) for change, changed in changes]
    return sorted((a for a in advice if a.saves_bytes >= LEAST_SAVED_BYTES), key=lambda a: -a.saves_bytes)


def longest_row(question: MemoryQuestion, capacity_bytes: int, step_rows: int) -> int:
    """Give the longest row, one per pass and in steps of 256 tokens (below that of 8), that fits; 0 when none does."""
    alone = question.with_rows(1, step_rows)

    def longest(step: int, end: int) -> int:
        def bytes_of(steps: int) -> int:
            return estimate(replace(alone, max_length=steps * step)).on_card_bytes

        return step * largest_count(bytes_of, capacity_bytes, end // step)

    return longest(ROW_STEP, LONGEST_ROW) or longest(SHORT_ROW_STEP, ROW_STEP - 1)


def most_rows(question: MemoryQuestion, capacity_bytes: int, step_rows: int) -> int:
    """Give the most rows per pass that fit at this row length; 0 when not even one does."""

    def bytes_of(rows: int) -> int:
        return estimate(question.with_rows(rows, step_rows)).on_card_bytes

    if bytes_of(step_rows) > capacity_bytes:
        return largest_count(bytes_of, capacity_bytes, step_rows - 1)
    return step_rows + largest_count(lambda more: bytes_of(step_rows + more), capacity_bytes, MOST_ROWS - step_rows)


def largest_count(bytes_of: Callable[[int], int], capacity_bytes: int, limit: int) -> int:
    """Give the largest count up to `limit` whose bytes fit; 0 when not even one does.

    Bytes grow with the count, nearly as a line, so each look but the first few is where the line through the last two
    meets the capacity; what is left after LOOKS_ALONG_LINES is halved.
    """
    fits, fails, at, before, looks = 0, limit + 1, 1, (0, 0), 0
    while fits + 1 < fails:
        size, looks = bytes_of(at), looks + 1
        fits, fails = (at, fails) if size <= capacity_bytes else (fits, at)
        grows = (size - before[1]) / (at - before[0]) if looks > 1 else 0
        along = at + int((capacity_bytes - size) // grows) if grows > 0 else FARTHEST * at
        guess = along if looks < LOOKS_ALONG_LINES else (fits + fails) // 2
        at, before = max(fits + 1, min(guess, fails - 1)), (at, size)
    return fits


def _changes(question: MemoryQuestion, readable: int | None) -> Iterator[tuple[str, MemoryQuestion]]:
    """Every change that may help, in the words of the recipe."""
    yield from _pass_changes(question, readable)
    yield from _base_changes(question)
    if not isinstance(question.adapter, Full):
        yield from _adapter_changes(question, question.adapter)


def _pass_changes(question: MemoryQuestion, readable: int | None) -> Iterator[tuple[str, MemoryQuestion]]:
    if question.recomputed < len(question.shape.layers):
        everything = replace(question, checkpointing=True, recomputed_layers=None)
        yield "training.gradient_checkpointing: full", everything
    if not question.offloaded and not question.stack:
        away = replace(question, checkpointing=True, recomputed_layers=None, offloaded=True)
        yield "training.gradient_checkpointing: offloaded", away
    if question.micro_batch_size > 1:
        change = question.with_rows(1, step_rows=question.micro_batch_size)
        yield "training.micro_batch_size: 1 (the same result)", change
    if question.gpus > 1 and not question.sharded and _splits(question):
        yield "training.sharding: full", replace(question, sharded=True)
    if question.max_length >= 512:
        half = min(question.max_length // 2, readable or question.max_length)
        yield f"data.max_length: {half}", replace(question, max_length=half)


def _splits(question: MemoryQuestion) -> bool:
    """Tell whether the base may be split over processes."""
    return isinstance(question.adapter, Lora) and not isinstance(question.quantization, Int8)


def _base_changes(question: MemoryQuestion) -> Iterator[tuple[str, MemoryQuestion]]:
    quantization = question.quantization
    if question.unpacked_layers:
        yield "quantization.keep_unpacked: none (the same result)", replace(question, unpacked_layers=0)
    if question.is_full:
        yield "adapter.kind: lora", replace(question, adapter=Lora())
    elif not isinstance(quantization, Bits4):
        yield "quantization.kind: nf4", replace(question, quantization=Nf4())
    elif not quantization.double_quant:
        doubled = quantization.model_copy(update={"double_quant": True})
        yield "quantization.double_quant: true", replace(question, quantization=doubled)
    if question.dtype == "float32" and isinstance(quantization, Unquantized) and not question.is_full:
        yield TO_BFLOAT16, replace(question, dtype="bfloat16")
    if question.optimizer != "paged_adamw_8bit":
        yield "training.optimizer: paged_adamw_8bit", replace(question, optimizer="paged_adamw_8bit")


def _adapter_changes(question: MemoryQuestion, adapter: Lora | Dora) -> Iterator[tuple[str, MemoryQuestion]]:
    parts = {part_of(linear.name) for linear in question.targets}
    if "mlp" in parts and "attention" in parts:
        narrower = adapter.model_copy(update={"target_modules": "attention"})
        yield "adapter.target_modules: attention", replace(question, adapter=narrower)
    if adapter.rank > 1:
        half = adapter.model_copy(update={"rank": adapter.rank // 2})
        yield f"adapter.rank: {adapter.rank // 2}", replace(question, adapter=half)
    if isinstance(adapter, Dora):
        plain = Lora.model_validate(adapter.model_dump(exclude={"kind"}))
        yield "adapter.kind: lora", replace(question, adapter=plain)
