"""What comes and goes in a step with the head: the final norm, the logits and the loss."""

from lorafit.plan.question import Component, MemoryQuestion
from lorafit.plan.stack import Stack

FLOAT32 = 4
CHUNK_LOGITS = 2**25  # float32 values of logits that stand at once under a frozen head: 128 MiB


def head_forward(question: MemoryQuestion, stream_bytes: int) -> Component:
    """Final norm, logits, their float32 copy and log-softmax: the most that is live while the loss is computed."""
    if question.classes:
        return _class_head(question, stream_bytes)
    if question.chunked_head:
        return _chunked_head(question, stream_bytes)
    if question.stack:
        return _transformers_head(question, question.stack, stream_bytes)
    return _head(question, stream_bytes, "logits and loss", max(question.compute_bytes + FLOAT32, 2 * FLOAT32))


def head_backward(question: MemoryQuestion, stream_bytes: int) -> Component:
    """Log-softmax, its gradient and the gradient of the float32 logits."""
    if question.classes:
        return _class_head(question, stream_bytes)
    if question.chunked_head:
        return _chunked_head(question, stream_bytes)
    height = question.stack.loss_backward_bytes(question.shape.narrow_loss_before) if question.stack else 3 * FLOAT32
    if question.stack and question.stack.keeps_outputs:
        height += question.compute_bytes
    found = _head(question, stream_bytes, "logits, loss and their gradients", height)
    if question.is_full and question.stack is None and question.copies_weights:
        copied = question.shape.vocab_size * question.shape.hidden_size
        found = found._replace(bytes=found.bytes + 2 * copied, formula=f"{found.formula} + {copied:,} of the head x 2")
    return _with_head_copy(question, found)


def _transformers_head(question: MemoryQuestion, stack: Stack, stream_bytes: int) -> Component:
    """Beside what the loss makes, the model's frame still holds the last states."""
    height = stack.loss_forward_bytes(question.shape.narrow_loss_before) - 2 + question.compute_bytes
    if question.embedding_bytes == FLOAT32 and not question.autocast:  # logits are float32, of which there is no copy
        height = 2 * FLOAT32
    head = _head(question, stream_bytes, "logits and loss", height)
    kept = question.is_full and question.normed_bytes == question.compute_bytes  # by a trained head, as its input
    size = 0 if kept else question.tokens * question.shape.hidden_size * question.normed_bytes
    return _with_head_copy(question, head._replace(bytes=head.bytes + size))


def _with_head_copy(question: MemoryQuestion, head: Component) -> Component:
    """Autocast takes a float32 head to 16 bits, and its product keeps that copy for the backward."""
    if not (question.stack and question.autocast and question.embedding_bytes == FLOAT32 and not question.is_full):
        return head
    copied = question.shape.vocab_size * question.shape.hidden_size
    return head._replace(bytes=head.bytes + 2 * copied, formula=f"{head.formula} + {copied:,} of the head x 2")


def _chunked_head(question: MemoryQuestion, stream_bytes: int) -> Component:
    """Logits of a chunk and what is made of them, beside the states of all targets and their gradient."""
    shape, targets = question.shape, question.target_tokens
    rows = min(targets, max(1, CHUNK_LOGITS // shape.vocab_size))
    states = 2 * question.compute_bytes
    if shape.layers[-1].norm == "layer" and question.autocast:  # which autocast leaves in float32
        states += FLOAT32
    normed = _norm_bytes(question, stream_bytes)
    each = FLOAT32 + question.embedding_bytes % FLOAT32  # a head of 16 bits makes and takes them in 16 bits
    return Component(
        "logits of a chunk, states and their gradient",
        rows * each * shape.vocab_size + (targets * states + question.tokens * normed) * shape.hidden_size,
        f"{rows:,} targets x {each} x {shape.vocab_size:,} vocabulary"
        f" + ({targets:,} targets x {states} + {question.tokens:,} tokens x {normed}) x {shape.hidden_size:,} hidden",
        passing=True,
    )


def _class_head(question: MemoryQuestion, stream_bytes: int) -> Component:
    """The final norm of every token and its gradient: logits of a few documents are nothing beside them."""
    size = _norm_bytes(question, stream_bytes) + 2 * question.compute_bytes
    tokens, hidden = question.tokens, question.shape.hidden_size
    return Component(
        "last states and their gradient",
        tokens * size * hidden,
        f"{tokens:,} tokens x {size} x {hidden:,} hidden",
        passing=True,
    )


def _norm_bytes(question: MemoryQuestion, stream_bytes: int) -> int:
    """The norm keeps a float32 copy of what the last layer gave; a float32 stream is that copy.

    Torch's own LayerNorm reads 16 bits as they are, where no autocast has it in float32; so does lorafit's norm. One
    written out keeps the stream less its mean twice, for the variance and for the product.
    """
    kind = question.shape.layers[-1].norm
    if kind == "centred":
        return 2 * FLOAT32
    lean = question.fused and kind == "rms"
    return stream_bytes if lean or question.narrow_norms else FLOAT32


def _head(question: MemoryQuestion, stream_bytes: int, name: str, logit_bytes: int) -> Component:
    shape, targets = question.shape, question.target_tokens
    if shape.capped_logits:
        logit_bytes += question.compute_bytes
    normed = _norm_bytes(question, stream_bytes)
    if question.is_full:
        normed += _trained_norm_bytes(question)
    norm_bytes = question.tokens * normed * shape.hidden_size
    return Component(
        name,
        targets * logit_bytes * shape.vocab_size + norm_bytes,
        f"{targets:,} targets x {logit_bytes} x {shape.vocab_size:,} vocabulary"
        f" + {question.tokens:,} tokens x {normed} x {shape.hidden_size:,} hidden",
        passing=True,
    )


def trained_head_states(question: MemoryQuestion, stream_bytes: int) -> Component:
    """What the final norm and a trained head keep of the states, and the gradient of what the head read."""
    size = _norm_bytes(question, stream_bytes) + _trained_norm_bytes(question) + question.compute_bytes
    values = question.tokens * question.shape.hidden_size
    return Component("last states and their gradient", values * size, f"{values:,} x {size} bytes", passing=True)


def _trained_norm_bytes(question: MemoryQuestion) -> int:
    """What a trained scale keeps, the stream as it scales it, and the input that a trained head keeps."""
    kind = question.shape.layers[-1].norm
    if kind == "layer":  # torch's own, which makes it again
        return question.compute_bytes
    scaled = question.stream_bytes if kind == "rms" and question.stack else FLOAT32
    return scaled + question.compute_bytes
