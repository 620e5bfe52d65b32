"""What a process holds of a base that is split over several (FSDP2): its part of every layer, and what it gathers.

Scales of 4-bit weights are no parameters and stay whole, as does a table that embedding and head share. Under plain
transformers it is FSDP1, full shard: trained weights, gradients and states are split too, and one table like any other.
"""

from collections.abc import Callable

from lorafit.plan.layers import Layer
from lorafit.plan.question import Component, MemoryQuestion
from lorafit.recipe.quantization import Bits4
from lorafit.recipe.schema import Recipe
from lorafit.recipe.sharding import why_whole

# the layer at work, the next one fetched beside it, and the flat buffer that it arrives in
GATHERED_LAYERS = 3
GATHERED_BY_TRANSFORMERS = 2  # FSDP1 gathers into the flat weight itself
HEAD_ON_ARRIVAL = 2  # the head, and the buffer that it arrives in


def is_split(recipe: Recipe, least: MemoryQuestion, fits: Callable[[MemoryQuestion], bool]) -> bool:
    """Resolve `training.sharding`: `auto` splits what does not fit whole with all else at its `least`.

    What fits whole is faster whole, and one process has nobody to split with.
    """
    wanted = recipe.training.sharding
    if wanted == "none" or not may_split(recipe, least):
        return False
    return wanted == "full" or not fits(least)


def may_split(recipe: Recipe, question: MemoryQuestion) -> bool:
    """Tell whether there is someone to split with, and a base that can be split."""
    return question.gpus > 1 and (question.stack is not None or why_whole(recipe) is None)


def split(question: MemoryQuestion, weights: list[Component]) -> list[Component]:
    """Keep this process's part of each component of the weights."""
    if not question.sharded:
        return weights
    return [_part(question, part) for part in weights]


def split_trained(question: MemoryQuestion, parts: list[Component]) -> list[Component]:
    """Keep this process's part of what is trained: FSDP under transformers splits that too, lorafit only the base."""
    if not (question.sharded and question.stack):
        return parts
    return [_divided(part, question.gpus) for part in parts]


def _divided(part: Component, gpus: int, whole: int = 0) -> Component:
    kept = ", scales whole" if whole else ""
    size = whole + -(-(part.bytes - whole) // gpus)
    return part._replace(bytes=size, formula=f"({part.formula}) / {gpus}{kept}")


def _part(question: MemoryQuestion, part: Component) -> Component:
    if "embedding" in part.name and question.shape.tied and not question.stack:
        return part
    whole = 0
    if part.name.startswith("linear") and isinstance(question.quantization, Bits4):
        whole = part.bytes - question.shape.linear_parameters // 2
    return _divided(part, question.gpus, whole)


def gathered_layers(question: MemoryQuestion) -> list[Component]:
    """Layers that are whole while they are used; under transformers (FSDP1) what is in no layer stays whole too."""
    if not question.sharded:
        return []
    count = GATHERED_BY_TRANSFORMERS if question.stack else GATHERED_LAYERS
    if question.keeps_worked_layers:  # the worst moment is that of the first layer, with none to fetch after it
        count = 1
    largest = max(_layer_bytes(question, layer) for layer in set(question.shape.layers))
    layers = Component("layers gathered from all processes", count * largest, f"{count} x {largest:,} bytes of a layer")
    return [layers, *(gathered_head(question) if question.stack else [])]


def gathered_head(question: MemoryQuestion, copies: int = 1) -> list[Component]:
    """The head is whole while the loss is computed; FSDP1 gathers the embedding with it."""
    if not question.sharded or question.classes or (question.shape.tied and not question.stack):
        return []
    shape, size = question.shape, question.embedding_bytes
    values = shape.vocab_size * shape.hidden_size
    count = question.vocabulary_matrices if question.stack else copies
    return [
        Component("head gathered from all processes", count * values * size, f"{count} x {values:,} x {size} bytes")
    ]


def _layer_bytes(question: MemoryQuestion, layer: Layer) -> int:
    values = sum(linear.weights for linear in layer.linears)
    size = min(question.weight_bytes, question.compute_bytes) if question.stack else question.weight_bytes
    linears = (
        values // 2 if isinstance(question.quantization, Bits4) else values * size
    )  # gathered as it is computed in
    rest = layer.expert_parameters * question.embedding_bytes + layer.other_parameters * question.norm_bytes
    return linears + rest
