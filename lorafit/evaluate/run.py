"""Evaluate a run or a model on held-out rows, with its base beside it if asked."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import count
from typing import cast

from peft import PeftModel

from lorafit.data.today import on_day
from lorafit.errors import StorageError
from lorafit.evaluate.classes import CLASS_METRICS
from lorafit.evaluate.measure import Scores, Work, answer_limit, measure
from lorafit.evaluate.metrics import LOSS_METRICS, check_names, check_references
from lorafit.evaluate.questions import held_out, questions
from lorafit.evaluate.target import Target, find_target
from lorafit.model.run import TrainedOn, trained_on
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.lock import RunLock
from lorafit.rundir.store import Store

SAMPLES_KEPT = 8
Say = Callable[[str], None]


@dataclass(frozen=True)
class EvalResult:
    """What was measured; shares are 0 to 1, the loss is in nats per target token (a classifier: per row)."""

    target: str
    examples: int
    target_tokens: int
    metrics: dict[str, float]
    base: dict[str, float] | None  # the same metrics with the adapter taken off
    max_new_tokens: int | None  # longest answer waited for
    finished: float | None  # share of the answers that ended by themselves
    majority: float | None = None  # of a classifier: the accuracy of always giving the most frequent class

    def as_json(self) -> dict[str, object]:
        """Give the result to a program."""
        return asdict(self)

    def as_text(self) -> str:
        """Give the result to a person, as a table."""
        targets = "" if self.majority is not None else f", {self.target_tokens:,} target tokens"
        lines = [f"{self.examples:,} rows{targets}"]
        if self.base:
            lines.append(f"{'':<14}{'adapter':>10}{'base':>10}")
        for name, value in self.metrics.items():
            beside = f"{self.base[name]:>10.4f}" if self.base else ""
            lines.append(f"{name:<14}{value:>10.4f}{beside}")
        if self.majority is not None:
            lines.append(f"always giving the most frequent class has an accuracy of {self.majority:.4f}")
        if self.finished is not None and self.finished < 1:
            lines.append(f"{1 - self.finished:.1%} of the answers were cut at {self.max_new_tokens} tokens")
        return "\n".join(lines)


def evaluate(
    target: str,
    *,
    data: Sequence[str] = (),
    metrics: Sequence[str] = (),
    compare_base: bool = False,
    max_new_tokens: int | None = None,
    say: Say | None = None,
) -> EvalResult:
    """Measure loss and perplexity, and the metrics named, on the rows at `data` or those the run held out.

    What can be wrong with the command line and the rows is found before weights are loaded. A run keeps the
    result in its reports. Raises RecipeError, DataError, ModelError, NumericalError, OutOfMemory.
    """
    tell = say or _silent
    found = find_target(target, data)
    check_names(metrics, classes=bool(found.labels))
    if compare_base:
        found.require_base()
    with _reading(found):
        work = _work(found, data, metrics, max_new_tokens)
        scores, base = _measure(found, work, compare_base, tell)
    result = _result(found, work, scores, base)
    if found.run is not None:
        _keep(found.run, result.as_json() | {"samples": _samples(found, work, scores, base)}, tell)
    return result


def _silent(text: str) -> None:
    del text


def _reading(found: Target) -> AbstractContextManager[object]:
    """Keep others from writing the run while it is read."""
    return nullcontext() if found.run is None else RunLock(found.run, shared=True)


def _work(found: Target, data: Sequence[str], metrics: Sequence[str], max_new_tokens: int | None) -> Work:
    """Read and check the rows, and decide how long an answer may get."""
    begun_on = trained_on(found.run) if found.run else None
    with on_day(begun_on.day if begun_on else None):
        return _work_on_day(found, data, metrics, max_new_tokens, begun_on)


def _work_on_day(
    found: Target, data: Sequence[str], metrics: Sequence[str], max_new_tokens: int | None, begun_on: TrainedOn | None
) -> Work:
    rows = held_out(found.recipe, found.tokenizer, data, begun_on, found.labels)
    names = list(dict.fromkeys(metrics))
    if found.labels:
        return Work(rows.rows, [], names or list(CLASS_METRICS), None)
    if set(names) <= set(LOSS_METRICS):
        return Work(rows.rows, [], names, None)
    asked = questions(rows, found.tokenizer)
    for name in names:
        check_references(name, [question.gold for question in asked])
    return Work(rows.rows, asked, names, answer_limit(asked, max_new_tokens, found.context))


def _measure(found: Target, work: Work, compare_base: bool, tell: Say) -> tuple[Scores, Scores | None]:
    """Measure the model and, with its adapter taken off, the base under it."""
    loaded = found.load()
    attention = found.recipe.model.attention
    tell(f"measuring {found.name} on {len(work.rows):,} rows")
    scores = measure(loaded, attention, work)
    if not compare_base:
        return scores, None
    tell("measuring the base on the same rows")
    with cast("PeftModel", loaded.model).disable_adapter():
        return scores, measure(loaded, attention, work)


def _result(found: Target, work: Work, scores: Scores, base: Scores | None) -> EvalResult:
    answers = scores.answers
    return EvalResult(
        target=found.name,
        examples=len(work.rows),
        target_tokens=int(work.rows.row_targets.sum()),
        metrics=scores.metrics,
        base=base.metrics if base else None,
        max_new_tokens=work.max_new_tokens,
        finished=sum(answer.finished for answer in answers) / len(answers) if answers else None,
        majority=scores.majority,
    )


def _samples(found: Target, work: Work, scores: Scores, base: Scores | None) -> list[dict[str, object]]:
    """Show the first questions with their gold answers and what was answered."""
    shown = []
    for number, question in enumerate(work.questions[:SAMPLES_KEPT]):
        sample: dict[str, object] = {
            "origin": question.gold.origin,
            "prompt": found.tokenizer.decode(question.prompt),
            "reference": question.gold.reference,
            "answer": scores.answers[number].text,
        }
        shown.append(sample | ({"base_answer": base.answers[number].text} if base else {}))
    return shown


def _keep(run: RunFolder, report: dict[str, object], tell: Say) -> None:
    """Write the next free reports/eval-NNNN.json; a disk that refuses does not cost the result."""
    path = next(p for n in count(1) if not (p := run.reports / f"eval-{n:04}.json").exists())
    try:
        Store().write_json(path, report)
    except StorageError as error:
        tell(f"the report was not kept: {error}")
