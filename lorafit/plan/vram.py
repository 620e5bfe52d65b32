"""The answer of `estimate-vram`: bytes by component, whether it fits a card, and what would help."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from lorafit.errors import RecipeError
from lorafit.plan.advice import Advice, Reach, advise, fewest_sharing, reaches
from lorafit.plan.ask import ask, check_overrides, check_split, default_recipe, with_options
from lorafit.plan.assumed import assumptions, of_card, warnings
from lorafit.plan.autos import rows_of_process
from lorafit.plan.bands import band
from lorafit.plan.base_config import positions, readable, refuse_stored_quantised
from lorafit.plan.cards import Card, find_card
from lorafit.plan.find_shape import find_shape
from lorafit.plan.memory import estimate
from lorafit.plan.outside import outside
from lorafit.plan.question import Component, Estimate, MemoryQuestion, Verdict
from lorafit.plan.shapes import NamedShape, OfClass
from lorafit.plan.shards import may_split
from lorafit.plan.stack import Kernel, find_stack
from lorafit.plan.work import Work, work
from lorafit.recipe.schema import Recipe

if TYPE_CHECKING:  # what a plain answer does not need takes its time to load
    from lorafit.plan.exact import Exact
    from lorafit.plan.sweep import Sweep


class Fit(NamedTuple):
    """How a step sits on a card; `headroom_bytes` is what is left, negative where even the tensors do not fit.

    `spare_bytes` is what is left beside all that torch holds, holes between tensors included.
    """

    card: Card
    verdict: Verdict
    headroom_bytes: int
    spare_bytes: int
    # the recipe's own way to recompute, or the last two of `auto`; the furthest last; none where only a trace tells
    reaches: list[Reach]
    # on other cards, where `model.dtype: auto` would take bfloat16 there; None: as many as on this one
    elsewhere_bytes: int | None = None
    together: int | None = None  # such cards that would hold it where one does not, the base shared between them

    def as_json(self) -> dict[str, object]:
        """Give the facts for a program. `tight` fits too, with expandable segments, as a run sets them."""
        return {
            "device": self.card.name,
            "capacity_bytes": self.card.capacity_bytes,
            "fits": self.verdict != "does not fit",
            "headroom_bytes": self.headroom_bytes,
            "spare_bytes": self.spare_bytes,
            "verdict": self.verdict,
            "largest_micro_batch_size": self.reaches[-1].most_rows if self.reaches else None,
            "longest_row_tokens": self.reaches[-1].longest_row if self.reaches else None,
            "reaches": [reach.as_json() for reach in self.reaches],
            "cards_sharing_the_base": self.together,
        }


class Answer(NamedTuple):
    """What `estimate-vram` says."""

    asked: str  # the model's name as it was given
    model: NamedShape
    question: MemoryQuestion
    estimate: Estimate
    fit: Fit | None
    advice: list[Advice]
    warnings: list[str]
    assumptions: list[str]
    work: Work
    outside: list[Component]
    sweep: "Sweep | None" = None  # one setting over a range, where it was asked for
    exact: "Exact | None" = None  # the real step traced, where it was asked for

    def as_json(self) -> dict[str, object]:
        """Give the answer for a program; bytes are per GPU. Parts `in_peak` add up to `peak_bytes`."""
        found = self.estimate
        parts = [{"name": p.name, "bytes": p.bytes, "formula": p.formula, "in_peak": True} for p in found.components]
        beside = [*self.beyond_the_peak(), *((p.name, p.bytes, p.formula) for p in self.outside)]
        beyond = [{"name": n, "bytes": b, "formula": f, "in_peak": False} for n, b, f in beside]
        return {
            "model": self.model.taken_as,
            "method": self.question.method,
            "gpus": self.question.gpus,
            "peak_bytes": found.peak_bytes,
            "low_bytes": found.low_bytes,
            "high_bytes": found.high_bytes,
            "peak_phase": found.peak_phase,
            "components": parts + beyond,
            "trainable_parameters": found.trainable_parameters,
            "total_parameters": found.total_parameters,
            "fits": self.fit.as_json() if self.fit else None,
            "advice": [{"change": a.change, "saves_bytes": a.saves_bytes} for a in self.advice],
            "reserved_bytes": found.reserved_bytes,
            "context_bytes": found.context_bytes,
            "phases": found.phases,
            "recomputed_layers": self.question.recomputed,
            "offloaded": self.question.offloaded,
            "unpacked_layers": self.question.unpacked_layers,
            "assumptions": self.assumptions,
            "warnings": self.warnings,
            "positions": positions(self.model.config),
            "engine": self.question.stack.name if self.question.stack else "lorafit",
            "alternatives": self.model.alternatives,
            "work": self.work.as_json(),
            "sweep": self.sweep.as_json() if self.sweep else None,
            "exact": self.exact.as_json(self.estimated_bytes) if self.exact else None,
        }

    def as_text(self) -> str:
        """Give the answer for a person."""
        from lorafit.plan.vram_text import as_text

        return as_text(self)

    @property
    def estimated_bytes(self) -> int | None:
        """The peak as it was estimated; None where the trace is all there is."""
        return None if self.question.shape.read_off else self.estimate.peak_bytes

    def beyond_the_peak(self) -> list[tuple[str, int, str]]:
        """Name, bytes and reason of what is on the card beside the allocated tensors."""
        found = self.estimate
        rows = [
            ("reserved by torch beyond the peak", found.reserved_bytes, "holes between tensors, about"),
            ("CUDA context beyond the peak", found.context_bytes, "outside torch: 0.3 to 2 GiB by driver and kernels"),
        ]
        if found.paged_bytes:
            evictable = "in managed memory: on the card while there is room, else on the host"
            rows.append(("paged optimizer states beyond the peak", found.paged_bytes, evictable))
        return rows


def answer(
    recipe: Recipe | None,
    *,
    model: str | None,
    method: str | None,
    rank: int | None,
    target_modules: str | None,
    max_length: int | None,
    micro_batch_size: int | None,
    gpus: int,
    gpu: str | None,
    engine: str = "lorafit",
    upcast: str | None = None,
    swept: str | None = None,
    tokens: int | None = None,
    price_per_hour: float | None = None,
    classes: int = 0,
    sharding: str | None = None,
    overrides: Sequence[str] = (),
    habits: Sequence[str] = (),
    own_truths: Sequence[float] = (),
    of_class: OfClass | None = None,
) -> Answer:
    """Estimate for a recipe, or for a model's name; options take the place of the recipe's settings.

    `classes` are those of a classification head, 0 for a language model; `overrides` change the recipe that a name
    stands for (one that was read has had its own); `habits` are those of a run of transformers, by their names;
    `own_truths` are peaks that were measured here, as shares above or below their estimates; `of_class` reads the shape
    of a family that lorafit has no table of, whose answer a trace then makes whole.

    Raises:
        RecipeError: no model, or an unknown method, card or target module.
        ModelError: an unknown model, or a config.json that cannot be read.
    """
    if recipe is None and not model:
        raise RecipeError("no model to estimate", fix="give a recipe, or --model NAME", code="E2-USAGE")
    options = {
        "--model": model, "--method": method, "--rank": rank, "--target-modules": target_modules,
        "--max-length": max_length, "--micro-batch-size": micro_batch_size, "--sharding": sharding,
    }  # fmt: skip
    check_overrides(overrides, options)
    card = None if gpu is None else find_card(gpu)
    plain = engine.strip().lower().startswith("transformers")
    base = recipe if recipe is not None else default_recipe(str(model), method, overrides, plain=plain)
    asked = with_options(
        base,
        method=method,
        rank=rank,
        target_modules=target_modules,
        max_length=max_length,
        micro_batch_size=micro_batch_size,
        sharding=sharding,
    )
    name = model or base.model.path
    revision, where = (None, "--model") if model else (base.model.revision, "model.path")
    found = find_shape(name, revision, online=True, where=where, of_class=of_class)
    refuse_stored_quantised(found.config, name)
    kernel: Kernel = "sdpa" if asked.model.attention == "auto" else asked.model.attention
    stack = find_stack(engine, upcast, kernel, habits)
    without = {each: find_stack(engine, upcast, kernel, [h for h in habits if h != each]) for each in habits}
    check_split(asked, stack, "--sharding" if sharding else "training.sharding")
    question = ask(asked, found.shape, gpus, card, stack, classes)
    result = estimate(question)
    around = band(question).with_own(own_truths)
    low, high = around.around(result.peak_bytes)
    result = result._replace(low_bytes=low, high_bytes=high)
    return Answer(
        asked=name,
        model=found,
        question=question,
        estimate=result,
        fit=_fit(asked, question, card, result, found.config) if card else None,
        advice=_advice(question, result, card, readable(found.config)),
        warnings=[*warnings(asked, question, found, upcast, without), *of_card(asked, question, card, tokens)],
        assumptions=[*assumptions(asked, question, card), f"the band {around.said}"],
        work=work(question, card, tokens, price_per_hour),
        outside=outside(question, result, asked.training.keep_checkpoints),
        sweep=None if swept is None else _swept(swept, question, card, found.config),
    )


def _advice(question: MemoryQuestion, result: Estimate, card: Card | None, readable: int | None) -> list[Advice]:
    if question.shape.read_off:
        return []
    return advise(question, result.peak_bytes, bfloat16=card is None or card.bfloat16, readable=readable)


def _swept(text: str, question: MemoryQuestion, card: Card | None, config: Mapping[str, object]) -> "Sweep":
    from lorafit.plan.sweep import sweep

    if question.shape.read_off:
        raise RecipeError(
            f"{question.shape.model_type!r} is known by its traces only, and a sweep makes none",
            where="--sweep", fix="leave it out, and ask for one setting at a time", code="E2-USAGE",
        )  # fmt: skip
    return sweep(text, question, card.capacity_bytes if card else None, config)


def _fit(recipe: Recipe, question: MemoryQuestion, card: Card, result: Estimate, config: Mapping[str, object]) -> Fit:
    fit = fit_on(card, result, _reaches(recipe, question, card, readable(config)))
    if fit.verdict == "does not fit" and not question.stack and not question.shape.read_off:
        fit = fit._replace(together=fewest_sharing(recipe, question, card.capacity_bytes))
    if card.bfloat16 or recipe.model.dtype != "auto" or question.shape.read_off:
        return fit
    return fit._replace(elsewhere_bytes=estimate(replace(question, dtype="bfloat16")).on_card_bytes)


def _reaches(recipe: Recipe, question: MemoryQuestion, card: Card, readable: int | None) -> list[Reach]:
    if question.shape.read_off:
        return []
    return reaches(
        question,
        card.capacity_bytes,
        rows_of_process(recipe, question.gpus),
        auto=recipe.training.gradient_checkpointing == "auto",
        splits=recipe.training.sharding == "auto" and may_split(recipe, question),
        readable=readable,
    )


def fit_on(card: Card, result: Estimate, found: list[Reach]) -> Fit:
    """Set an estimate on a card, and how far the card goes beside it."""
    spare, verdict = card.capacity_bytes - result.on_card_bytes, result.verdict(card.capacity_bytes)
    headroom = spare if verdict == "fits" else card.capacity_bytes - result.least_on_card_bytes
    return Fit(card, verdict, headroom, spare, found)
