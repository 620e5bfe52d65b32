"""The answer of `estimate-vram` as plain text."""

from typing import TYPE_CHECKING

from lorafit.plan.base_config import positions
from lorafit.plan.cards import cards_that_hold
from lorafit.plan.recompute import in_words
from lorafit.plan.units import GIB, Unit
from lorafit.recipe.adapters import Full
from lorafit.recipe.quantization import Bits4, Unquantized

if TYPE_CHECKING:
    from lorafit.plan.advice import Reach
    from lorafit.plan.question import Estimate, MemoryQuestion
    from lorafit.plan.vram import Answer, Fit

MOST_ADVICE = 6
MOST_ALTERNATIVES = 8


def as_text(answer: "Answer") -> str:
    """Lay out what was asked, the sum by component, the verdict, and what would help."""
    blocks = [_header(answer), _table(answer), _outside(answer)]
    blocks.append(answer.work.as_text())
    if answer.sweep:
        blocks.append(answer.sweep.as_text())
    if answer.exact:
        blocks.append(answer.exact.as_text(answer.estimated_bytes, Unit(answer.estimate.peak_bytes)))
    if answer.fit:
        blocks.append(_verdict(answer.fit, answer))
    if answer.advice:
        blocks.append(_advice(answer))
    blocks.append("\n".join(f"Assumed: {line}" for line in answer.assumptions))
    return "\n\n".join(blocks)


def _gib(count: int) -> str:
    return f"{count / GIB:.2f}"


def _header(answer: "Answer") -> str:
    found, shape = answer.estimate, answer.model.shape
    share = 100 * found.trainable_parameters / found.total_parameters
    taken = "" if answer.asked == answer.model.taken_as else f", taken as {answer.model.taken_as}"
    lines = [
        f"{answer.asked}{taken} ({shape.model_type}): {found.total_parameters:,} parameters, "
        f"{found.trainable_parameters:,} trained ({share:.3g} %)",
        _setting(answer.question),
    ]
    if answer.model.alternatives:
        listed = answer.model.alternatives[:MOST_ALTERNATIVES]
        more = ", ..." if len(answer.model.alternatives) > len(listed) else ""
        lines.append(f"By its name it could also be {', '.join(listed)}{more}")
    lines += [f"Warning: {said}" for said in answer.warnings]
    return "\n".join(lines)


def _setting(question: "MemoryQuestion") -> str:
    quantization = question.quantization
    base: str = question.dtype if isinstance(quantization, Unquantized) else quantization.kind
    if isinstance(quantization, Bits4) and quantization.double_quant:
        base += " doubly quantised"
    adapter = f"all weights, in {'float32' if question.trained_bytes == 4 else question.dtype}"
    if not isinstance(question.adapter, Full):
        targets = question.adapter.target_modules
        where = targets if isinstance(targets, str) else f"{len(question.targets)} layers"
        adapter = f"rank {question.rank} on {where}, base in {base}"
    rows = "1 row" if question.micro_batch_size == 1 else f"{question.micro_batch_size} rows"
    recompute = in_words(question.recomputed, len(question.shape.layers), offloaded=question.offloaded)
    engine = f" by {question.stack.name}" if question.stack else ""
    cards = "" if question.gpus == 1 else f", on each of {question.gpus} GPUs"
    return (
        f"{question.method}{engine}: {adapter}; {rows} of {question.max_length:,} tokens a pass, {recompute}, "
        f"{question.optimizer}{cards}"
    )


def _table(answer: "Answer") -> str:
    found, unit = answer.estimate, Unit(answer.estimate.peak_bytes)
    rows = [(part.bytes, part.name, part.formula) for part in found.components]
    band = f"{unit.of(found.low_bytes)} to {unit.of(found.high_bytes)}"
    rows.append((found.peak_bytes, f"PEAK, allocated by torch: {found.peak_phase}", band))
    rows += [(count, name, reason) for name, count, reason in answer.beyond_the_peak()]
    rows.append((found.on_card_bytes, "ON THE CARD, as nvidia-smi shows it", "peak + reserved + context"))
    width = max(len(name) for _, name, _ in rows)
    lines = [f"{unit.name:>8}  {'component':<{width}}  how"]
    lines += [f"{unit.of(count):>8}  {name:<{width}}  {how}" for count, name, how in rows]
    return "\n".join(lines)


def _outside(answer: "Answer") -> str:
    unit = Unit(answer.estimate.peak_bytes)
    parts = [f"{unit.of(part.bytes)} {part.name}" for part in answer.outside]
    return f"Besides, each at its own time, in {unit.name}: {'; '.join(parts)}"


def _verdict(fit: "Fit", answer: "Answer") -> str:
    estimate, most = answer.estimate, positions(answer.model.config)
    card = f"{fit.card.name} ({_gib(fit.card.capacity_bytes)} GiB usable)"
    if fit.verdict == "does not fit":
        first = f"DOES NOT FIT {card}: {_gib(-fit.headroom_bytes)} GiB too much"
    elif fit.verdict == "tight":
        first = f"TIGHT on {card}: the tensors fit, the holes between them only as torch gives them back"
    else:
        first = f"FITS {card}: {_gib(fit.headroom_bytes)} GiB to spare"
        if estimate.high_bytes - estimate.peak_bytes > fit.headroom_bytes:
            first += ", but not at the upper end of the band"
    lines = [first, *(_reach(reach, most) for reach in fit.reaches if reach.longest_row)]
    if fit.reaches and len(lines) == 1:
        return f"{first}\nNo row is short enough. {_other_cards(fit, estimate)}"
    return "\n".join([*lines, *([_other_cards(fit, estimate)] if fit.verdict == "does not fit" else [])])


def _reach(reach: "Reach", positions: int | None) -> str:
    host = f" ({_gib(reach.host_bytes)} GiB of it for that row)" if reach.host_bytes else ""
    longer = positions is not None and positions < reach.longest_row
    beyond = f" (the model was made for {positions:,})" if longer else ""
    return (
        f"With {reach.recomputation}{host}: most rows a pass at this length {reach.most_rows:,}; "
        f"longest row, one a pass, {reach.longest_row:,} tokens{beyond}"
    )


def _other_cards(fit: "Fit", estimate: "Estimate") -> str:
    """Each of them computes in bfloat16, and so holds what `auto` would take there."""
    names = [card.name for card in cards_that_hold(fit.elsewhere_bytes or estimate.on_card_bytes)]
    how = ", in bfloat16" if fit.elsewhere_bytes else ""
    one = f"Cards that would hold it{how}: {', '.join(names)}" if names else "No card of the catalogue holds it"
    return f"{one}, or {fit.together} of this one that share the base (--gpus {fit.together})" if fit.together else one


def _advice(answer: "Answer") -> str:
    unit = Unit(answer.estimate.peak_bytes)
    lines = [f"{unit.of(each.saves_bytes):>8}  {each.change}" for each in answer.advice[:MOST_ADVICE]]
    return "\n".join([f"What would lower the peak, each change alone and all else as above, in {unit.name}:", *lines])
