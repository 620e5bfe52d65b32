"""The rows as the model will see them."""

from typing import TYPE_CHECKING

import numpy as np

from lorafit.data.batch import IGNORED
from lorafit.data.prepare import PreparedData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def preview_json(data: PreparedData, tokenizer: "PreTrainedTokenizerBase", count: int = 3) -> dict[str, object]:
    """Give the first rows with their tokens and labels (-100: not trained), and what became of all rows."""
    rows = data.train
    shown = []
    for row in range(min(count, len(rows))):
        span = slice(rows.starts[row], rows.starts[row + 1])
        ids = rows.tokens[span]
        labels = np.where(rows.trained[span], ids, IGNORED)
        labels[0] = IGNORED
        shown.append(
            {
                "source": rows.place(row),
                "text": tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False),
                "input_ids": ids.tolist(),
                "labels": labels.tolist(),
            }
        )
    counts = data.report.counts
    names = ("read", "kept", "dropped", "truncated", "bad")
    return {"rows": shown, "counts": {name: getattr(counts, name) for name in names}}
