"""What is evaluated or talked to: a run, or a model; known by recipe and tokenizer before weights are loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from lorafit.errors import ModelError, RecipeError
from lorafit.model.classify import labels_in
from lorafit.model.find import find_model
from lorafit.model.init_from import CONFIG
from lorafit.model.run import Loaded, base_folder, load_model, load_run, read_recipe, result_folder
from lorafit.model.tokenizer import load_tokenizer
from lorafit.plan.base_config import positions
from lorafit.plan.find_shape import read_config
from lorafit.recipe.adapters import Full
from lorafit.recipe.problems import printable
from lorafit.recipe.schema import DataSpec, ModelSpec, Recipe, Source
from lorafit.rundir.layout import RunFolder

DEFAULT_CONTEXT = 2048
LONGEST_PATH = 4096  # characters, as in a recipe
ARGUMENT = "RUN|MODEL (no run folder, so taken as a model)"  # as `lorafit eval --help` calls it


@dataclass(frozen=True)
class Target:
    """A model that is there, whole, but not loaded yet."""

    name: str
    run: RunFolder | None
    recipe: Recipe  # of a model that is no run: all defaults
    tokenizer: PreTrainedTokenizerBase
    context: int | None  # tokens that the model can attend to, where its config says
    load: Callable[[], Loaded]
    labels: Sequence[str] = ()  # the classes of a classifier; none for a language model

    def require_base(self) -> None:
        """Raise RecipeError when there is no adapter to take off."""
        if self.run is None or isinstance(self.recipe.adapter, Full):
            raise RecipeError(
                f"{self.name} is no adapter on a base, so there is nothing to compare with",
                where="--compare-base",
                fix="evaluate the base by itself: lorafit eval MODEL --data PATH",
                code="E2-NO-BASE",
            )


def find_target(name: str, data: Sequence[str] = ()) -> Target:
    """Tell a run from a model. Raises ModelError when it is neither, unfinished or damaged."""
    for word, where in ((name, ARGUMENT), *((path, "--data") for path in data)):
        _check_length(word, where)
    for path in data:
        check_text(path, "--data")
    root = Path(name).expanduser()
    run = RunFolder(root)
    if not run.is_run():
        check_text(name, ARGUMENT)
        _refuse_bare_adapter(root)
        folder = find_model(name, where=ARGUMENT)
        context = positions(read_config(folder / "config.json"))
        labels = labels_in(folder)
        recipe = _model_recipe(name, context, data, classifies=bool(labels))
        return Target(name, None, recipe, load_tokenizer(folder), context, lambda: load_model(name), labels)
    recipe = read_recipe(run)
    result = result_folder(run, recipe)
    full = isinstance(recipe.adapter, Full)
    base = result if full else base_folder(run, recipe)
    context = positions(read_config(base / "config.json"))
    return Target(name, run, recipe, load_tokenizer(result), context, lambda: load_run(root), labels_in(result))


def _check_length(path: str, where: str) -> None:
    if len(path) > LONGEST_PATH:
        what = f"{printable(path)} has {len(path):,} characters, {LONGEST_PATH:,} at most"
        raise RecipeError(what, where=where, fix="give a shorter one", code="E2-USAGE")


def check_text(word: str, where: str) -> None:
    """Refuse bytes that are no UTF-8, which no tokenizer and no recipe takes."""
    if any("\ud800" <= character <= "\udfff" for character in word):  # as Python reads bytes that are no text
        what = f"{printable(word)} has bytes that are not UTF-8"
        raise RecipeError(what, where=where, fix="give text in UTF-8; a file may need another name", code="E2-USAGE")


def _refuse_bare_adapter(folder: Path) -> None:
    """An adapter alone is half a model: a run knows its base, and what it was trained on."""
    if not (folder / CONFIG).is_file() or any(folder.glob("model*.safetensors")):
        return
    run = folder.absolute().parent
    fix = f"give its run: {run}" if RunFolder(run).is_run() else "give the folder of the run that made it"
    raise ModelError("is an adapter, without a base", where=str(folder), fix=fix, code="E4-ADAPTER-ALONE")


def _model_recipe(name: str, context: int | None, data: Sequence[str], *, classifies: bool) -> Recipe:
    """Stand in for the recipe that a model does not have; rows may be as long as the model takes."""
    rows = [Source(path=path) for path in data or [name]]  # a recipe must name some; these are never trained on
    spec = DataSpec(train=rows, max_length=context or DEFAULT_CONTEXT, classification="head" if classifies else "words")
    return Recipe(version=1, model=ModelSpec(path=name), data=spec)
