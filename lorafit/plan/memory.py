"""GPU memory of a training step: the most of several moments, each a sum of named parts.

The physics is that of lorafit's own loop: norms, embeddings and head stay in 16 bits, adapters are float32, autocast
computes in 16 bits, rows are flat and carry no mask, checkpointing is non-reentrant, and logits exist for target tokens
only.
"""

from dataclasses import replace
from itertools import accumulate

from lorafit.plan import holdings
from lorafit.plan.bands import band
from lorafit.plan.beside import attention_masks, embedded, positions
from lorafit.plan.heads import head_backward, head_forward, trained_head_states
from lorafit.plan.holes import holes
from lorafit.plan.load import Load
from lorafit.plan.passes import Passes, play_passes
from lorafit.plan.question import Component, Estimate, MemoryQuestion
from lorafit.plan.shards import HEAD_ON_ARRIVAL, gathered_head, gathered_layers, split, split_trained
from lorafit.plan.workspace import HANDLES, WIDE_WORKSPACE_BYTES, WORKSPACE_BYTES
from lorafit.recipe.optimizers import OPTIMIZERS
from lorafit.recipe.quantization import Unquantized

__all__ = ["WORKSPACE_BYTES", "Component", "Estimate", "MemoryQuestion", "estimate", "largest_micro_batch"]

CONTEXT_BYTES = 6 * 2**30 // 10  # CUDA context, modules, kernels: 0.3 to 2 GiB were seen; a machine's own is constant

# Products are at full speed from some thousand tokens on: a longer pass gains nothing and risks the memory.
LARGEST_PASS_TOKENS = 16_384


def estimate(question: MemoryQuestion) -> Estimate:
    """Answer in bytes per GPU, without a GPU, torch or weights.

    Raises:
        RecipeError: the adapter's targets match no linear layer of the model.
    """
    tensors = holdings.trained_tensors(question)
    trained = sum(values * count for values, count in tensors.items())
    weights = split(question, holdings.weights(question))
    states, paged = holdings.optimizer_states(question, tensors)
    held = [*weights, *split_trained(question, [*holdings.adapters(question, trained), *states]), _workspace(question)]
    moments = {"loading": _loading(question, weights)} | _moments(question, held, trained)
    phase = max(moments, key=lambda name: _sum(moments[name]))
    peak = _sum(moments[phase])
    low, high = band(question).around(peak)
    return Estimate(
        peak_bytes=peak,
        low_bytes=low,
        high_bytes=high,
        peak_phase=phase,
        components=tuple(part for part in moments[phase] if part.bytes),
        phases={name: _sum(parts) for name, parts in moments.items()},
        reserved_bytes=holes(question, moments[phase]),
        context_bytes=CONTEXT_BYTES,
        paged_bytes=paged,
        host_bytes=_host_bytes(question),
        trainable_parameters=trained,
        total_parameters=question.total_parameters,
    )


def largest_micro_batch(question: MemoryQuestion, capacity_bytes: int, global_batch: int, world: int) -> int:
    """Give the most rows per pass that fit, among the divisors of a process's share of the global batch.

    A pass has at most LARGEST_PASS_TOKENS; 1 where not even one row fits.
    """
    share = -(-global_batch // world)
    for rows in range(share, 1, -1):
        if share % rows == 0 and rows * question.max_length <= LARGEST_PASS_TOKENS:
            asked = replace(question, gpus=world).with_rows(rows, share)
            if estimate(asked).on_card_bytes <= capacity_bytes:
                return rows
    return 1


def _moments(question: MemoryQuestion, held: list[Component], trained: int) -> dict[str, list[Component]]:
    """What is allocated at each moment of a step that may be its peak."""
    played = play_passes(question)
    # with several passes per step, the gradients of one live during the next
    gradients = split_trained(question, [holdings.gradients(question, trained)])
    before = gradients if question.accumulation else []
    masks = attention_masks(question)  # which a recomputed layer holds for its second forward
    step, held = held, [*held, positions(question)]
    passing, held = [*held, *masks, *embedded(question, played)], [*held, *masks] if question.recomputed else held
    kept = _kept(question, played.waiting(len(played.layers)), len(played.layers))
    in_loss, after_loss = head_forward(question, played.stream_bytes), head_backward(question, played.stream_bytes)
    cached = _cached(question, played)
    still = cached if question.stack and question.stack.keeps_outputs else []
    moments = {
        "loss, forward": [*held, *before, kept, *cached, *_copies(question, played), in_loss, *gathered_head(question)],
        "loss, backward": [*held, *before, kept, *still, after_loss, *gathered_head(question)],
        "backward of a layer": [*held, *_worst_layer(question, played, trained), *gathered_layers(question)],
        "optimizer step": [*step, *gradients, *split_trained(question, _update(question, trained))],
    }
    if question.sharded and not question.stack:
        arriving = gathered_head(question, HEAD_ON_ARRIVAL)
        moments["gathering the head"] = [*held, *before, kept, *_copies(question, played), *arriving]
    if question.recomputed < len(played.layers):
        moments["forward of a layer"] = [
            *passing,
            *before,
            *_last_forward(question, played),
            *gathered_layers(question),
        ]
    if question.is_full and not question.classes:
        states = trained_head_states(question, played.stream_bytes)
        moments["backward of the head"] = [*held, *before, kept, states, *_head_gradient(question)]
        moments["gradient of the embedding"] = [*held, *_embedding_gradient(question, trained)]
    if question.flat_trained:
        moments["laying gradients flat"] = [*step, *gradients, _flat(trained)]
    elif question.gpus > 1 and not (question.sharded and question.stack):
        moments["adding up gradients"] = [*step, *gradients, _exchange(trained)]
    return moments


def _worst_layer(question: MemoryQuestion, played: Passes, trained: int) -> list[Component]:
    """The layer whose backward has the most alive: waiting layers shrink while gradients grow."""
    tokens = question.tokens
    gradients = _gradients_by_layer(question, played, trained)
    kinds = {id(layer): layer for layer in played.layers}
    waiting = {kind: layer.waiting.total(tokens) for kind, layer in kinds.items()}
    before = [0, *accumulate(waiting[id(layer)] for layer in played.layers)]
    working = {kind: layer.working.total(tokens) for kind, layer in kinds.items()}
    away = {kind: layer.away.total(tokens) for kind, layer in kinds.items()}
    ahead = [0, *(away[id(layer)] for layer in played.layers)]  # what the layer below kept, from the host
    alive = [before[i] + ahead[i] + working[id(layer)] + gradients[i] for i, layer in enumerate(played.layers)]
    if question.keeps_worked_layers:  # all inputs by then, and the gradients of all but the first
        return _all_worked(question, played, gradients[0])
    worst = alive.index(max(alive))
    at_work = played.layers[worst].working
    name = "recomputed and in its backward" if worst < question.recomputed else "in its backward"
    return [
        Component(
            "gradients",
            gradients[worst],
            f"{gradients[worst] // question.trained_bytes:,} so far x {question.trained_bytes} bytes",
        ),
        _kept(question, played.waiting(worst), worst),
        Component(f"layer {worst}, {name}", at_work.total(tokens), at_work.formula(tokens), passing=True),
    ]


def _all_worked(question: MemoryQuestion, played: Passes, gradients: int) -> list[Component]:
    tokens, count = question.tokens, len(played.layers)
    first, inputs = played.layers[0].working, played.waiting(count - 1)  # its own is in its working
    later = played.waiting(count - 2)  # that of the second is what the first layer begins with
    return [
        Component("gradients", gradients, f"{gradients:,} bytes"),
        _kept(question, inputs, count - 1),
        Component("gradients of those, held by hooks", later.total(tokens), later.formula(tokens)),
        Component("layer 0, recomputed and in its backward", first.total(tokens), first.formula(tokens), passing=True),
    ]


def _last_forward(question: MemoryQuestion, played: Passes) -> list[Component]:
    """The last layer at the height of its forward, over what all below it keep."""
    below, load = len(played.layers) - 1, played.layers[-1].forward
    passing = Component(
        f"layer {below}, in its forward", load.total(question.tokens), load.formula(question.tokens), passing=True
    )
    return [_kept(question, played.waiting(below), below), passing]


def _gradients_by_layer(question: MemoryQuestion, played: Passes, trained: int) -> list[int]:
    """Bytes of gradients when each layer's backward begins: all of them, or those of the layers above.

    Where they are split (FSDP under transformers), those of the layer at work are whole.
    """
    size, share = question.gradient_bytes, question.gpus if question.sharded and question.stack else 1
    whole = [size * layer.trained if share > 1 else 0 for layer in played.layers]
    if question.accumulation:
        return [size * trained // share + own + _waiting_head(question) for own in whole]
    shape = question.shape
    left = trained - question.head_parameters
    left -= shape.vocab_size * shape.hidden_size if question.is_full and question.vocabulary_matrices > 1 else 0
    sizes = []
    for layer, own in zip(played.layers, whole, strict=True):
        left -= layer.trained
        sizes.append(size * left // share + own)
    return sizes


def _waiting_head(question: MemoryQuestion) -> int:
    """The gradient of a tied head that is there before: a second one waits for that of the embedding to join it."""
    if not (question.is_full and question.accumulation and question.vocabulary_matrices == 1 and not question.classes):
        return 0
    return question.gradient_bytes * question.shape.vocab_size * question.shape.hidden_size


def _host_bytes(question: MemoryQuestion) -> int:
    """What recomputed layers keep on the host."""
    if not question.offloaded:
        return 0
    return play_passes(question).away(len(question.shape.layers)).total(question.tokens)


def _kept(question: MemoryQuestion, waiting: Load, layers: int) -> Component:
    again = min(layers, question.recomputed)
    parts = [("checkpoints", again), ("activations kept", layers - again)]
    name = " and ".join(f"{what} of {count} layers" for what, count in parts if count) or "activations of 0 layers"
    return Component(name, waiting.total(question.tokens), waiting.formula(question.tokens))


def _cached(question: MemoryQuestion, played: Passes) -> list[Component]:
    if not (question.stack and question.stack.cache):
        return []
    load = played.cached()
    return [Component("keys and values of use_cache", load.total(question.tokens), load.formula(question.tokens))]


def _copies(question: MemoryQuestion, played: Passes) -> list[Component]:
    """Autocast's 16-bit copies of trained weights, cached through the forward; without checkpoints layers keep them."""
    if not question.copies_weights:
        return []
    head = question.shape.vocab_size * question.shape.hidden_size if question.is_full and not question.classes else 0
    layers = sum(layer.trained for layer in played.layers[: question.recomputed])
    if question.is_full:
        layers = question.shape.linear_parameters * question.recomputed // len(played.layers)
    return [Component("16-bit copies of trained weights", 2 * (layers + head), f"{layers + head:,} x 2 bytes")]


def _head_gradient(question: MemoryQuestion) -> list[Component]:
    """A trained head: its gradient in 16 bits beside the logits' own, and then beside its copy in float32."""
    shape, size = question.shape, question.compute_bytes
    values, logits = shape.vocab_size * shape.hidden_size, question.target_tokens * shape.vocab_size
    made = [
        Component("gradient of the logits", logits * size, f"{logits:,} x {size} bytes"),
        Component("gradient of the head", values * size, f"{values:,} x {size} bytes"),
    ]
    both = Component("gradient of the head", values * (size + 4), f"{values:,} x {size + 4} bytes")
    return [both] if question.copies_weights and both.bytes > _sum(made) else made


def _embedding_gradient(question: MemoryQuestion, trained: int) -> list[Component]:
    """The last gradient of a pass, as large as the vocabulary: added to that of a tied head, or of a pass before."""
    shape, size = question.shape, question.trained_bytes
    again = question.accumulation + (question.vocabulary_matrices == 1)
    values = again * shape.vocab_size * shape.hidden_size
    stream = question.tokens * shape.hidden_size
    return [
        *_final_gradients(question, trained),
        Component("gradient of the embedding", size * values, f"{values:,} x {size} bytes"),
        Component("gradient of the stream", size * stream, f"{stream:,} x {size} bytes", passing=True),
    ]


def _final_gradients(question: MemoryQuestion, trained: int) -> list[Component]:
    """At the end of a pass. Where they are split, those of embedding and head are whole, as one unit of FSDP."""
    if not (question.sharded and question.stack):
        return [holdings.gradients(question, trained)]
    root, size = question.embedding_parameters, question.gradient_bytes
    return [
        Component(
            "gradients", size * (trained - root) // question.gpus, f"{trained - root:,} x {size} / {question.gpus}"
        ),
        Component("gradients of embedding and head", size * root, f"{root:,} x {size} bytes"),
    ]


def _update(question: MemoryQuestion, trained: int) -> list[Component]:
    """An optimizer that goes over lists of tensors makes one list as large as the trained weights."""
    if question.stack is None or question.stack.fused_optimizer or OPTIMIZERS[question.optimizer].bits == 8:
        return []
    size = question.trained_bytes
    return [Component("temporaries of the update", size * trained, f"{trained:,} trained x {size} bytes", passing=True)]


def _flat(trained: int) -> Component:
    """Gradients come to lie in one buffer, in which processes add them up."""
    return Component("flat gradients", 4 * trained, f"{trained:,} trained x 4 bytes")


def _exchange(trained: int) -> Component:
    """Gradients of all processes are added up in one flat float32 copy."""
    return Component("flat copy of the gradients", 4 * trained, f"{trained:,} trained x 4 bytes")


def _workspace(question: MemoryQuestion) -> Component:
    size = question.workspace_bytes
    wide = f"; on Hopper and Blackwell x {WIDE_WORKSPACE_BYTES // HANDLES:,}" if size == WORKSPACE_BYTES else ""
    return Component("cuBLAS workspace", size, f"{HANDLES} threads x {size // HANDLES:,} bytes{wide}")


def _loading(question: MemoryQuestion, weights: list[Component]) -> list[Component]:
    """All weights, and the largest tensor before it is quantised or brought to float32."""
    shape = question.shape
    converts = question.is_full or not isinstance(question.quantization, Unquantized)
    largest = max((d_in * d_out for d_in, d_out in shape.linear_sizes), default=0) if converts else 0
    return [*weights, Component("largest tensor before conversion", 2 * largest, f"{largest:,} x 2 bytes")]


def _sum(parts: list[Component]) -> int:
    return sum(part.bytes for part in parts)
