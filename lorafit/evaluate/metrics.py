"""What an answer is worth: pure functions from answers and rows to numbers; shares are 0 to 1."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal

from lorafit.errors import DataError, Fault, NumericalError, RecipeError
from lorafit.evaluate.classes import CLASS_METRICS
from lorafit.evaluate.overlap import bleu, rouge_l
from lorafit.evaluate.sql import Database, QueryFailed, same_result, statement_in

LOSS_METRICS = ("loss", "perplexity", "bits_per_byte")
NUMBER = re.compile(r"(?:(?<![\w.)])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?")


@dataclass(frozen=True)
class Gold:
    """A row with its gold answer: where it stands, what is expected, and its other fields."""

    origin: str
    reference: str
    fields: Mapping[str, object]


def exact_match(answer: str, gold: Gold) -> float:
    """1 if the answer is the gold text, white space at both ends aside."""
    return float(answer.strip() == gold.reference.strip())


def sql_execution(answer: str, gold: Gold) -> float:
    """1 if the answer, run as SQL after the row's `setup_sql`, returns the rows of the gold query."""
    return float(same_result(answer, gold.reference, str(gold.fields["setup_sql"])))


def last_number(answer: str, gold: Gold) -> float:
    """1 if the last number in the answer equals the last in the gold text, as GSM8K is scored (arXiv 2110.14168)."""
    found = last_number_in(answer)
    return float(found is not None and found == last_number_in(gold.reference))


def json_valid(answer: str, gold: Gold) -> float:
    """1 if the whole answer is JSON by the letter of the standard (so no NaN); the gold text does not matter."""
    del gold
    try:
        json.loads(answer, parse_constant=_no_constant, parse_int=str)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def last_number_in(text: str) -> Decimal | None:
    """Give the last number of a text: sign, thousands' commas and decimals understood."""
    numbers = NUMBER.findall(text)
    return Decimal(numbers[-1].replace(",", "")) if numbers else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _mean_of(grade: Callable[[str, Gold], float]) -> "Metric":
    def mean(answers: Sequence[str], golds: Sequence[Gold]) -> float:
        return math.fsum(map(grade, answers, golds)) / len(golds)

    return mean


def _bleu(answers: Sequence[str], golds: Sequence[Gold]) -> float:
    return bleu(answers, [gold.reference for gold in golds])


Metric = Callable[[Sequence[str], Sequence[Gold]], float]
ANSWER_METRICS: Mapping[str, Metric] = {
    "exact_match": _mean_of(exact_match),
    "sql_execution": _mean_of(sql_execution),
    "last_number": _mean_of(last_number),
    "json_valid": _mean_of(json_valid),
    "rouge_l": _mean_of(lambda answer, gold: rouge_l(answer, gold.reference)),
    "bleu": _bleu,
}


def check_names(names: Iterable[str], *, classes: bool = False) -> None:
    """Raise RecipeError for every name that is no metric of this version for a classifier, or a language model."""
    known = ["loss", *CLASS_METRICS] if classes else [*LOSS_METRICS, *ANSWER_METRICS]
    of = "a classifier" if classes else "a language model"
    faults = [
        Fault(f"no metric {name!r} of {of} in this version", "--metric", f"there are {', '.join(known)}", "E2-METRIC")
        for name in names
        if name not in known
    ]
    if faults:
        raise RecipeError(faults)


def _sql_fault(gold: Gold) -> str | None:
    setup = gold.fields.get("setup_sql")
    if not isinstance(setup, str):
        return "sql_execution needs a text field `setup_sql` that makes the row's tables"
    try:
        with closing(Database(setup)) as database:
            database.query(statement_in(gold.reference))
    except QueryFailed as error:
        return f"the gold query or its set-up does not run: {error}"
    return None


def _number_fault(gold: Gold) -> str | None:
    return None if last_number_in(gold.reference) is not None else "last_number needs a number in the gold answer"


REFERENCE_CHECKS: Mapping[str, Callable[[Gold], str | None]] = {
    "sql_execution": _sql_fault,
    "last_number": _number_fault,
}


def check_references(name: str, golds: Sequence[Gold]) -> None:
    """Raise DataError for each row whose gold answer this metric cannot use, before a model is asked anything."""
    check = REFERENCE_CHECKS.get(name)
    if check is None:
        return
    problems = [(gold.origin, check(gold)) for gold in golds]
    faults = [
        Fault(problem, origin, fix="mend the row, or leave this metric out", code="E3-GOLD")
        for origin, problem in problems
        if problem
    ]
    if faults:
        raise DataError(faults)


def mean_loss(nats: float, target_tokens: int) -> float:
    """Loss per target token, in nats; NumericalError if it is not finite."""
    loss = nats / target_tokens
    if not math.isfinite(loss):
        raise NumericalError(
            f"the loss over {target_tokens} target tokens is {loss}",
            fix="look whether the base answers by itself: lorafit eval MODEL; a 16-bit dtype may overflow",
            code="E8-EVAL",
        )
    return loss


def perplexity(nats: float, target_tokens: int) -> float:
    """Inverse of the geometric mean probability of a target token; NumericalError where no float can hold it."""
    loss = mean_loss(nats, target_tokens)
    try:
        return math.exp(loss)
    except OverflowError as error:
        raise NumericalError(
            f"the perplexity of {loss:.1f} nats per token overflows",
            fix="look at the rows with lorafit preview: the model knows next to nothing of them",
            code="E8-EVAL",
        ) from error


def bits_per_byte(nats: float, target_bytes: int) -> float:
    """Bits to encode a byte of target text: comparable between tokenizers."""
    return nats / math.log(2) / target_bytes
