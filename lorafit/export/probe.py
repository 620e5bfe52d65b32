"""The rows on which a merged model is compared with the run: a few of its own, cut short."""

import random

from transformers import PreTrainedTokenizerBase

from lorafit.data.prepare import prepare
from lorafit.errors import DataError
from lorafit.recipe.schema import Recipe

PROBE_ROWS = 4
PROBE_TOKENS = 64  # so that the logits of a large vocabulary stay small: 4 x 64 x 128k x 4 bytes = 131 MB


def probe_rows(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[list[int]]:
    """Give the token ids of the first training rows; random ones where the data is no longer there."""
    try:
        rows = prepare(_first_rows(recipe), tokenizer).train
    except DataError:
        return random_rows(vocabulary, recipe.seed)
    return [rows.row(number)[0][:PROBE_TOKENS].tolist() for number in range(min(PROBE_ROWS, len(rows)))]


def random_rows(vocabulary: int, seed: int) -> list[list[int]]:
    """Give rows of ids drawn evenly: they reach weights that text of one kind leaves alone."""
    generator = random.Random(seed)
    return [[generator.randrange(vocabulary) for _ in range(PROBE_TOKENS)] for _ in range(PROBE_ROWS)]


def _first_rows(recipe: Recipe) -> Recipe:
    """Ask for a few rows of the first source, and let none of them stop the merge."""
    source = recipe.data.train[0].model_copy(update={"limit": PROBE_ROWS})
    changes = {"train": [source], "validation": None, "on_overlong": "truncate", "on_bad_row": "skip"}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)})
