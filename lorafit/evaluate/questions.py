"""The rows that a model is measured on: in tokens for its loss, as questions for its answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lorafit.data.cache import Loaded, default_cache
from lorafit.data.chat import generation_prompt_ids
from lorafit.data.classes import as_words, known_classes
from lorafit.data.faults import ReadLog
from lorafit.data.load import Loader
from lorafit.data.prepare import PreparedData, prepare
from lorafit.data.rows import Row, read_examples
from lorafit.data.token_rows import TokenRows, joined
from lorafit.data.tokens import Encoder
from lorafit.errors import DataError, Fault, RecipeError
from lorafit.evaluate.metrics import Gold
from lorafit.model.run import TrainedOn, file_hashes
from lorafit.recipe.formats import Conversation, Example, Labelled, PlainText
from lorafit.recipe.schema import Recipe, Source, Validation


@dataclass(frozen=True)
class HeldOut:
    """Rows in tokens, and the sources they were read from."""

    rows: TokenRows
    sources: list[Source | Validation]


@dataclass(frozen=True)
class Question:
    """What the model is given, and what it should answer."""

    prompt: list[int]  # token ids, up to where the answer starts
    gold: Gold
    gold_tokens: int


def held_out(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    paths: Sequence[str],
    begun_on: TrainedOn | None = None,
    labels: Sequence[str] = (),
) -> HeldOut:
    """Read the rows at `paths`, or those that the recipe validates on; `begun_on` is what the run was trained on.

    `labels` are the classes that the model tells apart, if it is a classifier.

    Raises DataError with everything that is wrong with any row, RecipeError when there are no such rows.
    """
    validation = recipe.data.validation
    if paths:
        return _from_sources(recipe, tokenizer, [Validation(path=path) for path in paths], labels)
    if validation is None:
        raise RecipeError("no rows were held out to measure on", fix="say which rows: --data PATH", code="E2-NO-DATA")
    if validation.path is not None:
        return _from_sources(recipe, tokenizer, [validation], labels)
    data = prepare(recipe, tokenizer, default_cache())
    if begun_on is not None and (what := _changed(data, begun_on)):
        raise DataError(
            f"{what}, so that held-out rows would be others, some trained on",
            where=str(recipe.data.train[0].path),
            fix="restore them, or say which rows to measure on: --data PATH",
            code="E3-CHANGED",
        )
    assert data.validation is not None
    return HeldOut(data.validation, list(recipe.data.train))


def _changed(data: PreparedData, begun_on: TrainedOn) -> str:
    """Say what is no longer as the run had it, "" if nothing is; files may have other paths from another folder."""
    files = file_hashes(data.report.as_json())
    if sorted(files.values()) != sorted(begun_on.files.values()):
        return "the training rows have changed since the run"
    held_out = data.report.validation
    if begun_on.held_out and held_out is not None and held_out.content != begun_on.held_out:
        return "the training rows give other tokens than in the run (a template that writes the date does)"
    return ""


def _from_sources(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, sources: list[Validation], labels: Sequence[str]
) -> HeldOut:
    loader = Loader(recipe.data, tokenizer, as_stored=True)  # a run has saved the tokenizer as it trained with it
    loaded = [loader.load(source) for source in sources]
    if loader.faults:
        raise DataError(loader.faults)
    return HeldOut(joined([_known(one, labels) for one in loaded if one is not None], labels), list(sources))


def _known(loaded: Loaded, labels: Sequence[str]) -> TokenRows:
    """Number the classes of rows as the model does. DataError for others, or where only one of the two has any."""
    if bool(labels) == bool(loaded.rows.labels):
        return known_classes(loaded.rows, tuple(labels))
    what = "the rows have no class, and the model gives nothing else" if labels else "the model gives no classes"
    fix = "measure it on rows with a text and a label" if labels else "measure it on chats or texts"
    raise DataError(what, where=loaded.report.path, fix=fix, code="E3-CLASSES")


def questions(found: HeldOut, tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """Ask for the last answer of each row, given all that stands before it; in the order of the rows.

    Raises DataError for rows that have no such answer.
    """
    encoder = Encoder(tokenizer)
    asked: dict[str, Question] = {}
    faults = []
    for row, example in _examples(found):
        question = _question(row, example, encoder)
        if isinstance(question, Question):
            asked[row.origin] = question
        else:
            faults.append(Fault(question, row.origin, "measure the loss of such rows only", "E3-NO-QUESTION"))
    if faults:
        raise DataError(faults)
    return [asked[found.rows.place(number)] for number in range(len(found.rows))]


def _examples(found: HeldOut) -> Iterator[tuple[Row, Example]]:
    """Read again what was kept."""
    kept = {found.rows.place(number) for number in range(len(found.rows))}
    for source in found.sources:
        _, examples = read_examples(source, ReadLog())
        yield from ((row, example) for row, example in examples if row.origin in kept)


def _question(row: Row, example: Example, encoder: Encoder) -> Question | str:
    """Give the question, or why the row has none."""
    if isinstance(example, Labelled):  # in words: no answer is asked of a head
        example = as_words(example, encoder.tokenizer)
    if isinstance(example, Conversation):
        *before, last = example.messages
        if last.content is None:
            return "the answer is a tool call and no text"
        context = [message.for_template() for message in before]
        prompt, reference = generation_prompt_ids(encoder.tokenizer, context, example.tools), last.content
    elif not isinstance(example, PlainText) or not example.prompt:
        return "running text asks for no answer" if isinstance(example, PlainText) else "the row asks for no text"
    else:
        prompt, reference = [*encoder.begin, *encoder.ids(example.prompt)], example.completion
    return Question(prompt, Gold(row.origin, reference, row.fields), len(encoder.ids(reference)))
