"""How many classes a recipe's head tells apart: for an estimate, before anything else is read."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lorafit.errors import LorafitError
from lorafit.recipe.schema import Recipe, Source


def read_recipe(path: Path | None, overrides: Sequence[str]) -> tuple[Recipe | None, int]:
    """Load the recipe of an estimate, if one was given, and count its classes. RecipeError."""
    if path is None:
        return None, 0
    from lorafit.recipe.load import load_recipe  # only here, for YAML takes a while to load

    recipe = load_recipe(path, overrides).recipe
    return recipe, count_classes(recipe)


def count_classes(recipe: Recipe | None) -> int:
    """Count the classes of the head that a recipe trains, by reading its rows; 0 where it trains none.

    Two classes are taken where a source says `format: classification` and no row can be read. The rows of other
    formats are not read, but for the first ones of a source that leaves its format to be found.
    """
    if recipe is None or recipe.data.classification != "head":
        return 0
    found = [_classes(source) for source in recipe.data.train if source.format in ("auto", "classification")]
    named = [labels for labels in found if labels is not None]
    return max(2, len(set().union(*named))) if named else 0


def _classes(source: Source) -> set[str] | None:
    """Name the classes of a source's rows, as far as they lie here and can be read; None for rows without a class."""
    from lorafit.data.faults import ReadLog  # only here, for what reads rows takes a while to load
    from lorafit.data.rows import local_files, read_examples
    from lorafit.recipe.formats import Labelled

    labels: set[str] = set()
    name: str = source.format
    with suppress(LorafitError, OSError):  # an estimate needs no rows; `validate` and `train` say what is wrong
        if local_files(source) is not None:
            name, rows = read_examples(source, ReadLog())
            if name == "classification":
                labels.update(row.label for _, row in rows if isinstance(row, Labelled))
    return labels if name == "classification" else None
