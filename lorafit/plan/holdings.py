"""What is held through the whole step: weights, adapters, gradients, optimizer states."""

from collections import Counter
from math import ceil

from lorafit.plan.question import Component, MemoryQuestion
from lorafit.recipe.adapters import Dora
from lorafit.recipe.optimizers import OPTIMIZERS, SMALLEST_PAGED_VALUES
from lorafit.recipe.quantization import Bits4, Int8
from lorafit.recipe.quantization.bits4 import BLOCK_SCALES, BLOCK_VALUES

# per 4-bit linear: tables of 16 and 256 float32 and an offset, each in a block of 512 bytes
TABLE_BYTES = 512 + 1024 + 512


def weights(question: MemoryQuestion) -> list[Component]:
    """The base model as it lies on the card; what is no linear of a layer is never quantised."""
    shape, size, narrow = question.shape, question.embedding_bytes, question.norm_bytes
    matrices, learned = question.vocabulary_matrices, shape.position_parameters
    others = question.other_parameters - learned
    parts = [
        _linears(question),
        _unpacked(question),
        Component(
            "experts, not quantised", shape.expert_parameters * size, f"{shape.expert_parameters:,} x {size} bytes"
        ),
        Component(
            _vocabulary_name(question),
            question.embedding_parameters * size,
            f"{matrices} x {shape.vocab_size:,} vocabulary x {shape.hidden_size:,} hidden x {size} bytes",
        ),
        Component("embedding of positions", learned * size, f"{learned:,} x {size} bytes"),
        Component("norms, biases, routers", others * narrow, f"{others:,} x {narrow} bytes"),
    ]
    if question.classes:
        parts.append(_class_head(question))
    parts.append(Component("causal mask of all positions", shape.mask_bytes, f"{shape.mask_bytes:,} x 1 byte"))
    return [part for part in parts if part.bytes]


def _vocabulary_name(question: MemoryQuestion) -> str:
    if question.classes:
        return "embedding"
    return "embedding, which is the output head too" if question.shape.tied else "embedding and output head"


def _class_head(question: MemoryQuestion) -> Component:
    """In float32. An adapter keeps the head as it began beside the one it trains, which is among its own weights."""
    return Component(
        "classification head as it began" if not question.is_full else "classification head",
        4 * question.head_parameters,
        f"{question.classes:,} classes x {question.shape.hidden_size:,} hidden x 4 bytes",
    )


def _unpacked_sizes(question: MemoryQuestion) -> Counter[tuple[int, int]]:
    """How many linears of each size stay unpacked."""
    layers = question.shape.layers[: question.unpacked_layers]
    return Counter((linear.in_features, linear.out_features) for layer in layers for linear in layer.linears)


def _values(sizes: Counter[tuple[int, int]]) -> int:
    return sum(d_in * d_out * count for (d_in, d_out), count in sizes.items())


def _unpacked(question: MemoryQuestion) -> Component:
    """Linears of a 4-bit base that stay as they enter a product."""
    values, size, count = _values(_unpacked_sizes(question)), question.compute_bytes, question.unpacked_layers
    name = f"linear weights of {count} layers, unpacked to {question.dtype}"
    return Component(name, values * size, f"{values:,} x {size} bytes")


def _linears(question: MemoryQuestion) -> Component:
    sizes, quantization = question.shape.linear_sizes - _unpacked_sizes(question), question.quantization
    values = _values(sizes)
    if isinstance(quantization, Bits4):
        packed = sum(_bits4_bytes(d_in * d_out, quantization) * count for (d_in, d_out), count in sizes.items())
        doubled = "1/64 + 4/16,384 for double-quantised scales" if quantization.double_quant else "4/64 for scales"
        return Component(
            f"linear weights in {quantization.kind}", packed, f"{values:,} x (1/2 + {doubled}) bytes, and code tables"
        )
    if isinstance(quantization, Int8):
        rows = sum(d_out * count for (_, d_out), count in question.shape.linear_sizes.items())
        return Component("linear weights in int8", values + 4 * rows, f"{values:,} x 1 byte + {rows:,} row scales x 4")
    size = question.weight_bytes
    name = "linear weights in float32" if size == 4 else f"linear weights in {question.dtype}"
    return Component(name, values * size, f"{values:,} x {size} bytes")


def _bits4_bytes(values: int, quantization: Bits4) -> int:
    """bitsandbytes' layout: packed halves, one scale per block; doubly quantised scales are bytes with scales again."""
    blocks = ceil(values / BLOCK_VALUES)
    scales = blocks + 4 * ceil(blocks / BLOCK_SCALES) if quantization.double_quant else 4 * blocks
    return ceil(values / 2) + scales + TABLE_BYTES


def trained_tensors(question: MemoryQuestion) -> Counter[int]:
    """Count the trained tensors by their number of values."""
    if question.is_full:
        return _all_tensors(question)
    sizes: Counter[int] = Counter()
    for (d_in, d_out), count in question.matched.sizes.items():
        sizes[question.rank * d_in] += count
        sizes[question.rank * d_out] += count
        if isinstance(question.adapter, Dora):
            sizes[d_out] += count
    if question.classes:
        sizes[question.head_parameters] += 1
    return sizes


def _all_tensors(question: MemoryQuestion) -> Counter[int]:
    shape = question.shape
    sizes: Counter[int] = Counter()
    for (d_in, d_out), count in shape.linear_sizes.items():
        sizes[d_in * d_out] += count
    sizes[shape.vocab_size * shape.hidden_size] += question.vocabulary_matrices
    if question.classes:
        sizes[question.head_parameters] += 1
    sizes.update(layer.expert_parameters for layer in shape.layers if layer.expert_parameters)
    routers = [layer.mlp.other_parameters for layer in shape.layers if layer.mlp.other_parameters]
    sizes.update([*routers, *([shape.position_parameters] if shape.position_parameters else [])])
    left = question.other_parameters - sum(routers) - shape.position_parameters
    small, rest = divmod(left, shape.hidden_size)  # norms and biases: a hidden size each
    return sizes + Counter({shape.hidden_size: small, rest: 1 if rest else 0})


def adapters(question: MemoryQuestion, trained: int) -> list[Component]:
    """The adapter's own weights, and what lorafit's DoRA keeps of those it adapts."""
    if question.is_full:
        return []
    size = question.trained_bytes
    name = f"{question.adapter.kind} weights in {'float32' if size == 4 else question.dtype}"
    own = Component(name, size * trained, f"{trained:,} trained x {size} bytes")
    if not (question.fused and isinstance(question.adapter, Dora)):
        return [own]
    rows = sum(d_out * count for (_, d_out), count in question.matched.sizes.items())
    return [own, Component("squared norms of the adapted rows", 4 * rows, f"{rows:,} rows x 4 bytes")]


def gradients(question: MemoryQuestion, trained: int) -> Component:
    """One number per trained weight, as wide as it."""
    size = question.gradient_bytes
    return Component("gradients", size * trained, f"{trained:,} trained x {size} bytes")


def optimizer_states(question: MemoryQuestion, tensors: Counter[int]) -> tuple[list[Component], int]:
    """Both moments: those that stay on the card, and the bytes of those that are paged."""
    optimizer = OPTIMIZERS[question.optimizer]
    paged = resident = resident_values = 0
    for values, count in tensors.items():
        size = optimizer.state_bytes(values) * count
        if optimizer.bits == 32:  # torch's moments are as wide as the weights
            size = size * question.trained_bytes // 4
        if optimizer.paged and values >= SMALLEST_PAGED_VALUES:
            scales = optimizer.scale_bytes(values) * count  # bitsandbytes pages the moments, never their scales
            paged, resident = paged + size - scales, resident + scales
        else:
            resident, resident_values = resident + size, resident_values + values * count
    each = "1 byte, and scales" if optimizer.bits == 8 else f"{question.trained_bytes} bytes"
    formula = f"{resident_values:,} trained x 2 moments x {each}"
    states = Component(f"{question.optimizer} states", resident, formula)
    return ([states] if resident else []), paged
