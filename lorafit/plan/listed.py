"""Mixtures of experts as transformers built them before version 5: a list of linears for each layer."""

from dataclasses import replace

from lorafit.plan.layers import Experts, Layer, Linear, ModelShape

_GATED = ("gate_proj", "up_proj", "down_proj")
_MIXTRAL = ("block_sparse_moe", ("w1", "w3", "w2"))
# read in the wheels of 4.48.1 and 4.57.6; Llama 4 and gpt-oss had stacked matrices from the start
_MODULES: dict[str, tuple[str, tuple[str, str, str]]] = {
    "mixtral": _MIXTRAL,
    "phimoe": _MIXTRAL,
    "olmoe": ("mlp", _GATED),
    "qwen2_moe": ("mlp", _GATED),
    "qwen3_moe": ("mlp", _GATED),
    "glm4_moe": ("mlp", _GATED),
    "deepseek_v2": ("mlp", _GATED),
    "deepseek_v3": ("mlp", _GATED),
}


def with_listed_experts(shape: ModelShape) -> ModelShape:
    """Give the shape with experts that are quantised and adapted as other linears; itself where they never were."""
    modules = _MODULES.get(shape.model_type)
    if modules is None or not shape.expert_parameters:
        return shape
    made = {id(layer): _listed(layer, shape.hidden_size, *modules) for layer in set(shape.layers)}
    notes = tuple(note for note in shape.notes if "stacked matrices" not in note)
    return replace(shape, layers=tuple(made[id(layer)] for layer in shape.layers), notes=notes)


def _listed(layer: Layer, hidden: int, module: str, names: tuple[str, str, str]) -> Layer:
    experts = layer.mlp.experts
    if experts is None:
        return layer
    each = tuple(_expert(f"{module}.experts.{index}", names, hidden, experts) for index in range(experts.count))
    linears = tuple(linear for trio in each for linear in trio)
    mlp = layer.mlp._replace(
        linears=layer.mlp.linears + linears,
        experts=replace(experts, parameters=0, listed=each),
    )
    return layer._replace(mlp=mlp)


def _expert(prefix: str, names: tuple[str, str, str], hidden: int, experts: Experts) -> tuple[Linear, Linear, Linear]:
    gate, up, down = (f"{prefix}.{name}" for name in names)
    width = experts.width
    return (
        Linear(gate, hidden, width, kind="expert"),
        Linear(up, hidden, width, kind="expert"),
        Linear(down, width, hidden, kind="expert"),
    )
