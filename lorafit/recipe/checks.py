"""What can be wrong when every value is good by itself: contradictions, and paths that no run should use."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from lorafit.recipe.adapters import LowRank, RegexTargets
from lorafit.recipe.formats import fields_of
from lorafit.recipe.problems import KeyPath, Problem, printable
from lorafit.recipe.regexes import why_not
from lorafit.recipe.schema import Recipe, Source, Validation
from lorafit.recipe.sharding import why_whole
from lorafit.recipe.suggest import did_you_mean, nearest
from lorafit.recipe.yaml_errors import character_name, hidden_character

LONGEST_NAME_BYTES = 255

_VALIDATION = KeyPath(("data", "validation"))
_EVAL_EVERY = KeyPath(("training", "eval_every"))


def warmup_ends(recipe: Recipe) -> Iterator[Problem]:
    """A warm-up as long as the run never reaches the learning rate."""
    warmup, steps = recipe.training.warmup, recipe.training.max_steps
    if isinstance(warmup, int) and steps is not None and warmup >= steps:
        what = f"a warm-up of {warmup} steps does not end within max_steps: {steps}"
        yield Problem(("training", "warmup"), what, "", "E2-RULE", depends_on=(("training", "max_steps"),))


def evaluation_has_rows(recipe: Recipe) -> Iterator[Problem]:
    """Evaluating, and stopping by it, needs held-out rows."""
    if recipe.data.validation is None:
        for key in ("eval_every", "early_stopping"):
            if getattr(recipe.training, key) is not None:
                fix = "give data.validation, for example {fraction: 0.05}"
                what = "needs held-out rows, and data.validation is not given"
                yield Problem(("training", key), what, fix, "E2-RULE", at_key=True, depends_on=(_VALIDATION,))


def early_stopping_evaluates(recipe: Recipe) -> Iterator[Problem]:
    """A run that evaluates only at its end cannot stop early."""
    if recipe.training.early_stopping is not None and recipe.training.eval_every is None:
        what = "needs training.eval_every: the run evaluates only at its end"
        path = ("training", "early_stopping")
        yield Problem(path, what, "", "E2-RULE", at_key=True, depends_on=(_EVAL_EVERY,))


def fraction_stands_alone(recipe: Recipe) -> Iterator[Problem]:
    """With a fraction, the rows are the training rows: nothing else about them can be chosen."""
    validation = recipe.data.validation
    if validation is None or validation.fraction is None:
        return
    for key in ("format", "columns", "split", "limit"):
        if getattr(validation, key) != Validation.model_fields[key].get_default(call_default_factory=True):
            what = "goes with a path; with a fraction the rows are those of data.train"
            yield Problem((*_VALIDATION, key), what, "", "E2-RULE", at_key=True, depends_on=(_VALIDATION,))


def micro_batch_fits_in_batch(recipe: Recipe) -> Iterator[Problem]:
    """A forward pass never sees more rows than an optimizer step."""
    micro, batch = recipe.training.micro_batch_size, recipe.training.global_batch_size
    if isinstance(micro, int) and micro > batch:
        what = f"{micro} rows are more than training.global_batch_size: {batch}"
        rests_on = (("training", "global_batch_size"),)
        yield Problem(("training", "micro_batch_size"), what, "", "E2-RULE", depends_on=rests_on)


def target_pattern_is_safe(recipe: Recipe) -> Iterator[Problem]:
    """The regular expression for the target modules compiles, and ends."""
    targets = recipe.adapter.target_modules if isinstance(recipe.adapter, LowRank) else None
    if isinstance(targets, RegexTargets) and (reason := why_not(targets.regex)):
        yield Problem(("adapter", "target_modules", "regex"), reason, code="E2-REGEX")


def paths_are_plain(recipe: Recipe) -> Iterator[Problem]:
    """Paths are taken as written: what a shell would expand, or a person could not see, is a mistake."""
    for path, text in _paths(recipe):
        if hidden := hidden_character(text):
            yield Problem(path, f"the path holds {character_name(hidden)}", "remove it", "E2-PATH")
        elif text.startswith("~") or "$" in text:
            what, fix = "~ and $ are not expanded in a recipe", "write the whole path"
            yield Problem(path, what, fix, "E2-PATH")
        elif max(len(name.encode()) for name in text.split("/")) > LONGEST_NAME_BYTES:
            yield Problem(path, f"a name of more than {LONGEST_NAME_BYTES} bytes in the path", "", "E2-PATH")


def output_is_its_own_folder(recipe: Recipe) -> Iterator[Problem]:
    """A run fills and cleans its folder, so that must be a folder of its own, here or at an absolute path."""
    folder = recipe.output.dir
    if folder is None or hidden_character(folder):
        return
    if ".." in PurePath(folder).parts:
        reason: str | None = "the folder climbs up with .."
    else:
        reason = why_no_run_folder(Path(folder)) or _data_inside(PurePath(folder), recipe)
    if reason:
        yield Problem(("output", "dir"), reason, "give a folder of its own, such as runs/first", "E12-PATH")


def why_no_run_folder(folder: Path) -> str | None:
    """Say why a folder cannot become a run folder: it holds the home folder, or the one we stand in."""
    real = Path(os.path.realpath(folder))  # pathlib's resolve() raises where links go in a circle
    home = os.path.expanduser("~")  # noqa: PTH111  # pathlib raises where there is no home
    for name, place in (("the current folder", "."), ("the home folder", home)):
        inner = Path(os.path.realpath(place))
        if inner.is_relative_to(real):
            return f"{printable(str(real))} {'is' if inner == real else 'holds'} {name}"
    return None


def columns_name_fields(recipe: Recipe) -> Iterator[Problem]:
    """Only what a format reads can be taken from another column."""
    places: list[tuple[KeyPath, Source | Validation]] = [
        (("data", "train", number), source) for number, source in enumerate(recipe.data.train)
    ]
    if recipe.data.validation is not None:
        places.append((_VALIDATION, recipe.data.validation))
    for path, source in places:
        known = fields_of(source.format)
        for field in source.columns.keys() - set(known):
            anything = source.format == "auto"
            what = "no format has such a field" if anything else f"the format {source.format} has no such field"
            fix = did_you_mean(nearest(field, known)) or f"the fields are {', '.join(known)}"
            yield Problem((*path, "columns", field), what, fix, "E2-KEY", at_key=True, depends_on=((*path, "format"),))


Check = Callable[[Recipe], Iterator[Problem]]


def dtype_is_trained(recipe: Recipe) -> Iterator[Problem]:
    """Small gradients vanish in float16 unless the loss is scaled, which lorafit does not do."""
    if recipe.model.dtype == "float16":
        what, fix = "float16 cannot be trained without scaling the loss", "use bfloat16 or float32"
        yield Problem(("model", "dtype"), what, fix, "E2-RULE")


def base_can_be_split(recipe: Recipe) -> Iterator[Problem]:
    """Only some frozen weights can be split over processes."""
    if recipe.training.sharding == "full" and (reason := why_whole(recipe)):
        rests_on: tuple[KeyPath, ...] = (("adapter", "kind"), ("quantization", "kind"))
        yield Problem(("training", "sharding"), reason, "leave it out", "E2-RULE", depends_on=rests_on)


CHECKS: tuple[Check, ...] = (
    warmup_ends,
    evaluation_has_rows,
    early_stopping_evaluates,
    fraction_stands_alone,
    columns_name_fields,
    micro_batch_fits_in_batch,
    target_pattern_is_safe,
    paths_are_plain,
    output_is_its_own_folder,
    dtype_is_trained,
    base_can_be_split,
)


def _data_inside(folder: PurePath, recipe: Recipe) -> str | None:
    paths = (text for path, text in _paths(recipe) if path[0] == "data")
    held = next((text for text in paths if PurePath(text).is_relative_to(folder)), None)
    return f"the folder holds the data {printable(held)}" if held else None


def _paths(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    yield ("model", "path"), recipe.model.path
    for number, source in enumerate(recipe.data.train):
        yield ("data", "train", number, "path"), source.path
    optional: dict[KeyPath, str | None] = {
        (*_VALIDATION, "path"): recipe.data.validation.path if recipe.data.validation else None,
        ("data", "chat_template"): recipe.data.chat_template,
        ("adapter", "init_from"): recipe.adapter.init_from if isinstance(recipe.adapter, LowRank) else None,
        ("output", "dir"): recipe.output.dir,
    }
    yield from ((path, text) for path, text in optional.items() if text is not None)
