"""The adapter that a run begins with, judged by its folder: before data and weights are touched, and without torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorafit.errors import Fault, ModelError, first_line
from lorafit.plan.find_shape import find_shape
from lorafit.plan.targets import match_targets
from lorafit.recipe.adapters import Dora, Full
from lorafit.recipe.adapters.low_rank import LowRank
from lorafit.recipe.schema import Recipe

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_A = ".lora_A.weight"  # how PEFT ends the name of an adapted layer's A


def start_faults(recipe: Recipe) -> list[Fault]:
    """Give what is wrong with `adapter.init_from`, as far as its files tell; nothing where a run begins with none."""
    if isinstance(recipe.adapter, Full) or recipe.adapter.init_from is None:
        return []
    folder = Path(recipe.adapter.init_from).expanduser()
    try:
        config, adapted = read_settings(folder), _adapted_layers(folder / WEIGHTS)
    except ModelError as error:
        return error.faults
    return [*unlike(folder, config, recipe.adapter), *_elsewhere(folder, adapted, recipe)]


def unlike(folder: Path, config: Mapping[str, object], adapter: LowRank) -> list[Fault]:
    """Compare what decides the function that the tensors stand for; PEFT leaves out what it has by default."""
    wanted: dict[str, tuple[object, object]] = {
        "peft_type": ("LORA", None),
        "r": (adapter.rank, 8),
        "lora_alpha": (adapter.alpha, 8),
        "use_rslora": (adapter.rslora, False),
        "use_dora": (isinstance(adapter, Dora), False),
    }
    found = {key: config.get(key, default) for key, (_, default) in wanted.items()}
    return [
        _fault(f"the adapter at {folder} has {key} {found[key]}, the recipe says {value}")
        for key, (value, _) in wanted.items()
        if found[key] != value
    ]


def _elsewhere(folder: Path, adapted: Sequence[str], recipe: Recipe) -> list[Fault]:
    """Compare the layers by their last names, where the base's shape is known here: prefixes differ by its class."""
    assert isinstance(recipe.adapter, LowRank)
    try:
        shape = find_shape(recipe.model.path, recipe.model.revision).shape
    except ModelError:  # said elsewhere
        return []
    names = [linear.name for linear in shape.linears()]
    wanted = _leaves(match_targets(recipe.adapter.target_modules, names, shape.model_type))
    found = _leaves(adapted)
    if found == wanted:
        return []
    return [_fault(f"the adapter at {folder} is on {', '.join(found)}, the recipe's on {', '.join(wanted)}")]


def _leaves(names: Sequence[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})


def _fault(what: str) -> Fault:
    return Fault(what, "adapter.init_from", "make the recipe agree with the adapter", "E4-INIT-FROM")


def read_settings(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json of a folder. ModelError when there is none, or it is no JSON object."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise _no_adapter(f"no adapter at {str(folder)!r}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _no_adapter(f"{folder / CONFIG} cannot be read: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise _no_adapter(f"{folder / CONFIG} is no JSON object")
    return config


def _adapted_layers(weights: Path) -> list[str]:
    """Name the layers that have tensors, by the header of the file."""
    from safetensors import SafetensorError, safe_open  # only here: few recipes begin with an adapter

    if not weights.is_file():
        raise _no_adapter(f"{weights.parent} holds no {WEIGHTS}")
    try:
        with safe_open(weights, framework="np") as file:
            return [name.removesuffix(_A) for name in file.keys() if name.endswith(_A)]  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise _no_adapter(f"{weights} cannot be read: {first_line(error)}") from None


def _no_adapter(what: str) -> ModelError:
    return ModelError(
        what,
        where="adapter.init_from",
        fix=f"give the folder that holds {CONFIG} and {WEIGHTS}, such as runs/NAME/adapter",
        code="E4-ADAPTER",
    )
