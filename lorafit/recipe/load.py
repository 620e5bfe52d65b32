"""A recipe file -> a checked recipe, or one error with everything that is wrong in it."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from lorafit.errors import SHOWN_LINES, SafetyRefusal
from lorafit.recipe.checks import CHECKS, Check, why_no_run_folder
from lorafit.recipe.judge import judge
from lorafit.recipe.overrides import apply_overrides, override_place
from lorafit.recipe.problems import Located, Problem, error_of
from lorafit.recipe.read import decode, read_bytes, source_name
from lorafit.recipe.schema import Recipe
from lorafit.recipe.secrets import find_secrets
from lorafit.recipe.yaml_errors import place_of
from lorafit.recipe.yaml_tree import parse_tree

RUNS = Path("runs")

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_CHARACTERS = 64
_SECRET = Problem(
    (), "this looks like a secret", "take it out: keys and tokens belong in the environment", "E12-SECRET"
)


class LoadedRecipe(NamedTuple):
    """A checked recipe and the bytes it was read from; `name` is the file's, without its ending."""

    recipe: Recipe
    text: bytes
    path: Path
    name: str

    def output_dir(self, out: Path | None = None) -> Path:
        """Give the run folder: `out`, else the recipe's own, else `runs/<name>`.

        Raises SafetyRefusal when `out` is the current or the home folder, or holds one of them.
        """
        if out is None:
            return Path(self.recipe.output.dir) if self.recipe.output.dir else RUNS / _folder_name(self.name)
        if reason := why_no_run_folder(out):
            where, fix = f"--out {source_name(out)}", "give a folder of its own"
            raise SafetyRefusal(reason, where=where, fix=fix, code="E12-PATH")
        return out


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe, change it by the overrides (`a.b=value`), and check it.

    Raises RecipeError with every fault, or SafetyRefusal when one of them is a secret or an unsafe folder.
    """
    text = read_bytes(path)
    return LoadedRecipe(recipe_from(text, source_name(path), overrides), text, path, path.stem)


def recipe_from(text: bytes, source: str, overrides: Sequence[str] = (), checks: Sequence[Check] = CHECKS) -> Recipe:
    """Check the YAML or JSON of a recipe, as `load_recipe` does; `source` stands for the file in faults."""
    words = decode(text, source)
    secrets = list(_secrets(words, source, overrides))
    tree = parse_tree(words, source)
    if tree.broken:
        raise error_of([*secrets, *tree.located])
    apply_overrides(tree, overrides)
    verdict = judge(tree.value)
    contradictions = [one for check in checks for one in check(verdict.recipe)] if verdict.recipe else []
    for problem in [*verdict.problems, *(one for one in contradictions if not verdict.explains(one))]:
        tree.add(problem)
    if secrets or tree.located:
        raise error_of([*secrets, *tree.located])
    assert verdict.recipe is not None, "where nothing is wrong there is a recipe"
    return verdict.recipe


def _secrets(words: str, source: str, overrides: Sequence[str]) -> Iterator[Located]:
    """Look in the whole text, comments too: it is copied into the run folder as it is."""
    for offset in islice(find_secrets(words), SHOWN_LINES):
        yield Located(place_of(words, offset, source), _SECRET)
    for number, text in enumerate(overrides, 1):
        if list(find_secrets(text)):
            yield Located(override_place(number, text), _SECRET)


def _folder_name(name: str) -> str:
    """Make a folder's name of any file's: letters, digits, `_`, `-` and `.`, with no sign to start with."""
    return _NOT_IN_A_NAME.sub("-", name).lstrip("._-")[:_NAME_CHARACTERS] or "run"
