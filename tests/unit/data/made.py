"""Token rows made by hand."""

from collections.abc import Sequence

import numpy as np

from lorafit.data.token_rows import RowBuilder, TokenRows
from lorafit.data.tokens import Encoded


def token_rows(rows: Sequence[Sequence[int]], prompt: int = 1, file: str = "rows.jsonl") -> TokenRows:
    """Make rows of which the first `prompt` tokens are not trained."""
    builder = RowBuilder()
    for line, ids in enumerate(rows, 1):
        trained = np.arange(len(ids)) >= prompt
        builder.add(Encoded(np.array(ids, np.int32), trained), file, line, unfinished=False)
    return builder.build()
