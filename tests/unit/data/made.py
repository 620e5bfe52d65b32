"""Token rows made by hand."""

from collections.abc import Sequence

import numpy as np

from lorafit.data.row_files import made
from lorafit.data.token_rows import TokenRows


def token_rows(rows: Sequence[Sequence[int]], prompt: int = 1, file: str = "rows.jsonl") -> TokenRows:
    """Make rows of which the first `prompt` tokens are not trained."""
    return made([(ids, np.arange(len(ids)) >= prompt) for ids in rows], file)
