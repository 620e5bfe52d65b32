"""How many classes a recipe's head tells apart: for an estimate, before anything else is read."""

from contextlib import suppress

from lorafit.errors import DataError
from lorafit.recipe.schema import Recipe


def count_classes(recipe: Recipe | None) -> int:
    """Count the classes of the head that a recipe trains, by reading its rows; 0 where it trains none.

    Only sources that say `format: classification` count. Two classes are taken where no row can be read.
    """
    sources = [source for source in recipe.data.train if source.format == "classification"] if recipe else []
    if recipe is None or recipe.data.classification != "head" or not sources:
        return 0
    from lorafit.data.faults import ReadLog  # only here, for what reads rows takes a while to load
    from lorafit.data.rows import local_files, read_examples
    from lorafit.recipe.formats import Labelled

    labels: set[str] = set()
    for source in sources:
        with suppress(DataError):
            if local_files(source) is not None:
                labels |= {row.label for _, row in read_examples(source, ReadLog())[1] if isinstance(row, Labelled)}
    return max(2, len(labels))
