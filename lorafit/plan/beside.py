"""What the model holds beside its layers while they run: positions, the batch, masks, and the embedding."""

from lorafit.plan.operations import FLOAT32
from lorafit.plan.passes import Passes
from lorafit.plan.question import Component, MemoryQuestion

IDS_BYTES = 4 * 8  # of a token: its number, its position, whether it predicts, and what


def positions(question: MemoryQuestion) -> Component:
    """What every layer reads beside the stream: sines and cosines of positions, and the batch itself."""
    shape, tokens = question.shape, question.tokens
    width = max((layer.attention.rotary_width for layer in shape.layers), default=0)
    size = FLOAT32 if shape.wide_positions else question.embedding_bytes
    table = 2 * shape.position_tables * width * size
    if question.stack:  # all rows of the batch read one table
        row = question.max_length
        size, formula = row * table + tokens * IDS_BYTES, f"{row:,} positions x {table:,} + {tokens:,} x {IDS_BYTES}"
        return Component("positions and the batch", size, f"{formula} bytes")
    formula = f"{tokens:,} tokens x ({table:,} + {IDS_BYTES}) bytes"
    return Component("positions and the batch", tokens * (table + IDS_BYTES), formula)


def attention_masks(question: MemoryQuestion) -> list[Component]:
    """What says which token sees which, [rows, 1, length, length]: added to scores, or one byte of yes and no.

    torch's kernels want none for rows of one length that see all before them, and the mask of a window is one for all
    rows (`sdpa_mask`, `eager_mask` in transformers/masking_utils.py). FlashAttention-2 takes no such mask.
    """
    stack, row = question.stack, question.max_length
    if stack is None or stack.kernel == "flash_attention_2":
        return []
    windows = set(question.shape.windows) or {None}
    explicit, rows, size = question.explicit_attention or question.shape.explicit_attention, question.tokens, 1
    if explicit:
        size = question.embedding_bytes
    elif not stack.padded:
        windows, rows = {window for window in windows if (window or row) < row}, row
    if not windows:
        return []
    return [
        Component(
            "mask of attention", len(windows) * rows * row * size, f"{len(windows)} x {rows:,} x {row:,} x {size} bytes"
        )
    ]


def embedded(question: MemoryQuestion, played: Passes) -> list[Component]:
    """What the embedding gave, by a name in transformers' model to the end of its forward; learned positions too.

    Where the first layer keeps it, it is among what that keeps.
    """
    shape, size = question.shape, question.stream_bytes
    kept = played.layers[0].keeps_input and not shape.changed_embeddings
    tokens = 0 if question.recomputed or kept else question.tokens
    tokens += question.max_length if shape.position_parameters else 0
    if not tokens:
        return []
    return [
        Component("embedding of the tokens", tokens * shape.hidden_size * size, f"{tokens:,} tokens x {size} bytes")
    ]
