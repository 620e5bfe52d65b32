"""Put an adapter on a base model: new, continued from another, or loaded to be used."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import PeftConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorafit.errors import Fault, ModelError, first_line
from lorafit.model.classify import HEAD, is_classifier, write_config
from lorafit.model.init_from import CONFIG, WEIGHTS, read_settings, unlike
from lorafit.plan.targets import match_targets
from lorafit.recipe.adapters import Adapter, Full
from lorafit.recipe.adapters.low_rank import LowRank


@dataclass(frozen=True)
class Attached:
    """A model that trains, and what in it is trained."""

    model: PreTrainedModel
    targets: list[str]  # full dotted names of the adapted layers; empty for full fine-tuning

    @property
    def trainable_parameters(self) -> int:
        """Count the numbers that are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def model_parameters(self) -> int:
        """Count the numbers of the model without its adapter, as they are before 4-bit packing."""
        every = sum(_numel(p) for p in self.model.parameters())
        return every - self.trainable_parameters if self.targets else every


def _numel(parameter: nn.Parameter) -> int:
    """Two 4-bit weights stand in one byte; the state beside them knows their shape."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def base_of(model: nn.Module) -> PreTrainedModel:
    """Give the model under an adapter, or the model itself."""
    return cast("PreTrainedModel", model.get_base_model() if isinstance(model, PeftModel) else model)


def linear_names(model: PreTrainedModel) -> list[str]:
    """Name every linear layer but the output head, in module order."""
    head = getattr(model, HEAD) if is_classifier(model) else model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]


def attach(model: PreTrainedModel, adapter: Adapter, base_name: str, seed: int) -> Attached:
    """Freeze the base and add the adapter; full fine-tuning unfreezes everything instead.

    The adapter is float32 whatever the base is: small steps vanish in 16 bits. Raises RecipeError when a
    target matches nothing, ModelError when `init_from` does not fit.
    """
    if isinstance(adapter, Full):
        model.requires_grad_(True)
        return Attached(model.float(), [])
    names = linear_names(model)
    targets = match_targets(adapter.target_modules, names, base_of(model).config.model_type)
    torch.manual_seed(seed)  # A is drawn at random, B is zero
    transposed = any(isinstance(model.get_submodule(name), Conv1D) for name in targets)
    config = adapter.build(shortest_names(targets, names), fan_in_fan_out=transposed)
    if is_classifier(model):
        config.task_type, config.modules_to_save = TaskType.SEQ_CLS, [HEAD]  # trained as it is, and saved whole
    adapted = cast("PeftModel", get_peft_model(model, config))
    adapted.peft_config["default"].base_model_name_or_path = base_name  # not the folder it was found in
    if adapter.init_from is not None:
        _continue_from(adapted, adapter, Path(adapter.init_from).expanduser())
    return Attached(cast("PreTrainedModel", adapted), targets)


def shortest_names(targets: list[str], linears: list[str]) -> list[str]:
    """Say the same set by last parts (`q_proj`) where that is exact: other tools read those."""
    leaves = {name.rpartition(".")[2] for name in targets}
    reached = [name for name in linears if name.rpartition(".")[2] in leaves]
    return sorted(leaves if set(reached) == set(targets) else targets)


def read_adapter_config(folder: Path) -> PeftConfig:
    """Read adapter_config.json. ModelError when it is missing or not understood."""
    try:
        config: PeftConfig = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"cannot read the adapter: {first_line(error)}",
            where=str(folder / CONFIG),
            fix="give a folder with adapter_config.json and adapter_model.safetensors",
            code="E4-ADAPTER",
        ) from None
    return config


def load_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Put a saved adapter on its base, frozen. ModelError when a tensor is missing, unknown or not finite."""
    config = read_adapter_config(folder)
    config.base_model_name_or_path = None  # PEFT would warn that the base stands elsewhere now
    adapted = cast("PeftModel", get_peft_model(model, config))
    _fill(adapted, folder)
    adapted.requires_grad_(False)
    return cast("PreTrainedModel", adapted.eval())


def _continue_from(model: PeftModel, adapter: LowRank, folder: Path) -> None:
    """Start from another adapter's weights; its shape must be what the recipe says."""
    if faults := unlike(folder, read_settings(folder), adapter):
        raise ModelError(faults)
    _fill(model, folder)


def _fill(model: PeftModel, folder: Path) -> None:
    """Load the adapter's tensors, every one expected and no other."""
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot read the adapter's weights: {error}",
            where=str(path),
            fix="get the file again: it is damaged, or cannot be read",
            code="E4-ADAPTER",
        ) from None
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    faults = [*_key_faults(expected.keys(), tensors.keys(), path), *_value_faults(expected, tensors, path)]
    if faults:
        raise ModelError(faults)
    set_peft_model_state_dict(model, tensors)


def _key_faults(expected: Iterable[str], found: Iterable[str], path: Path) -> list[Fault]:
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    fix = "the adapter was made for another base, or the file is damaged"
    return [
        Fault(f"{len(names)} tensors are {what}, the first {names[0]}", str(path), fix, "E4-ADAPTER-KEYS")
        for what, names in (("missing", missing), ("unknown", unknown))
        if names
    ]


def _value_faults(expected: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], path: Path) -> list[Fault]:
    faults = []
    for name in sorted(expected.keys() & tensors.keys()):
        if tensors[name].shape != expected[name].shape:
            shapes = f"{list(tensors[name].shape)}, the base needs {list(expected[name].shape)}"
            faults.append(
                Fault(
                    f"{name} is {shapes}",
                    str(path),
                    fix="the adapter was made for another base",
                    code="E4-ADAPTER-SHAPE",
                )
            )
        elif not tensors[name].isfinite().all():
            faults.append(
                Fault(
                    f"{name} holds NaN or infinity",
                    str(path),
                    fix="train it anew: such an adapter answers nothing",
                    code="E4-ADAPTER-NAN",
                )
            )
    return faults


def save_adapter(model: PreTrainedModel, folder: Path, facts: dict[str, str]) -> None:
    """Write an adapter as PEFT reads it: the same bytes for the same weights, on any machine.

    `facts` go into the header as one JSON string: safetensors writes several keys in random order.
    """
    adapted = cast("PeftModel", model)
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    on_host = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    save_file(on_host, folder / WEIGHTS, metadata={"lorafit": json.dumps(facts, sort_keys=True)})
    config = adapted.peft_config["default"].to_dict() | {"inference_mode": True}
    if is_classifier(base_of(model)):
        config["modules_to_save"] = [HEAD]  # PEFT adds names that other architectures have
        write_config(base_of(model), folder)
    text = json.dumps(config, sort_keys=True, indent=2, default=_plain)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    """Turn a set of PEFT's configuration into a sorted list, an enum into its value."""
    if isinstance(value, set):
        return sorted(value)
    return str(value)
