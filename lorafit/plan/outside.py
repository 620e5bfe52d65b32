"""What a run needs besides the card at its peak: while it loads, on the host, and on the disk."""

from lorafit.plan import holdings
from lorafit.plan.question import Component, Estimate, MemoryQuestion
from lorafit.recipe.optimizers import OPTIMIZERS

STORED_BYTES = 2  # of a weight in a published checkpoint
SHARD_BYTES = 5 * 10**9  # of a file of a merged model, which is held whole while it is written


def outside(question: MemoryQuestion, found: Estimate, kept_checkpoints: int) -> list[Component]:
    """List loading, host memory and disk, each by itself: they are needed at different times."""
    base, largest = STORED_BYTES * question.total_parameters, _largest_tensor(question)
    result, checkpoint = _result_bytes(question, found), _checkpoint_bytes(question, found)
    checkpoints = kept_checkpoints + 1
    parts = [
        Component("card while loading", found.phases["loading"], "weights, and the largest tensor before conversion"),
        Component(
            "host memory while loading",
            STORED_BYTES * largest,
            f"the largest tensor, {largest:,} x {STORED_BYTES} bytes; files are mapped, their pages can be dropped",
        ),
        *_checkpoints_on_host(question, found),
        Component("disk of the base", base, f"{question.total_parameters:,} x {STORED_BYTES} bytes"),
        Component(
            "disk of the run",
            result + checkpoints * checkpoint,
            f"the result, and {checkpoints} x {checkpoint:,} bytes of checkpoints, one of them being written",
        ),
    ]
    if question.is_full:
        return parts
    return [
        *parts,
        Component("disk of a merge", base, "the merged model in 16 bits"),
        Component(
            "host memory of a merge",
            base + min(base, SHARD_BYTES),
            "without a card: the base in 16 bits, and the file that is being written",
        ),
    ]


def _checkpoints_on_host(question: MemoryQuestion, found: Estimate) -> list[Component]:
    """Inputs of recomputed layers in pinned memory, of each process."""
    why = f"the inputs of {question.recomputed} layers, {question.tokens:,} tokens each, pinned"
    return [Component("host memory of a step", found.host_bytes, why)] if found.host_bytes else []


def _largest_tensor(question: MemoryQuestion) -> int:
    shape = question.shape
    experts = max((layer.expert_parameters for layer in shape.layers), default=0)
    return max(shape.vocab_size * shape.hidden_size, experts, *(d_in * d_out for d_in, d_out in shape.linear_sizes))


def _result_bytes(question: MemoryQuestion, found: Estimate) -> int:
    """An adapter, or after full fine-tuning a whole model, in float32."""
    return question.trained_bytes * found.trainable_parameters


def _checkpoint_bytes(question: MemoryQuestion, found: Estimate) -> int:
    """Trained weights, and the moments with their scales."""
    optimizer = OPTIMIZERS[question.optimizer]
    tensors = holdings.trained_tensors(question)
    moments = sum(optimizer.state_bytes(values) * count for values, count in tensors.items())
    return _result_bytes(question, found) + moments
