"""What the model holds beside its layers while they run: positions, the batch, masks, and the embedding."""

from lorafit.plan.operations import FLOAT32
from lorafit.plan.question import Component, MemoryQuestion

IDS_BYTES = 4 * 8  # of a token: its number, its position, whether it predicts, and what


def positions(question: MemoryQuestion) -> Component:
    """What every layer reads beside the stream: sines and cosines of positions, and the batch itself."""
    shape, tokens = question.shape, question.tokens
    width = max((layer.attention.rotary_width for layer in shape.layers), default=0)
    table = 2 * shape.position_tables * width * question.embedding_bytes
    return Component(
        "positions and the batch", tokens * (table + IDS_BYTES), f"{tokens:,} tokens x ({table:,} + {IDS_BYTES}) bytes"
    )


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


def embedded(question: MemoryQuestion) -> list[Component]:
    """What the embedding gave, by a name in transformers' model to the end of its forward; learned positions too.

    Where the first layer keeps it, it is among what that keeps.
    """
    shape, size = question.shape, question.stream_bytes
    tokens = 0 if question.recomputed or _keeps_embedding(question) else question.tokens
    tokens += question.max_length if shape.position_parameters else 0
    if not tokens:
        return []
    return [
        Component("embedding of the tokens", tokens * shape.hidden_size * size, f"{tokens:,} tokens x {size} bytes")
    ]


def _keeps_embedding(question: MemoryQuestion) -> bool:
    """Tell whether the first layer keeps what it reads for its backward, as it reads it."""
    if not question.is_full or question.shape.changed_embeddings:
        return False
    first = question.shape.layers[0]
    if first.order == "post":
        return not question.autocast
    return question.stream_bytes == FLOAT32 or question.narrow_norms
