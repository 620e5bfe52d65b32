"""A classification head on a decoder: made, found, applied to packed documents, and named in config.json."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from lorafit.errors import ModelError
from lorafit.plan.find_shape import read_config

CONFIG = "config.json"
HEAD = "score"  # what every decoder of transformers calls it
ENDING = "ForSequenceClassification"


@dataclass(frozen=True)
class Head:
    """A head that picks one of `labels`. With a seed it is new; without, its weights lie with the model's."""

    labels: Sequence[str]
    padding: int | None = None  # id of the token that pads: transformers reads the class before it
    seed: int | None = None

    def settings(self) -> dict[str, Any]:
        """Give what config.json says of it."""
        return {
            "ignore_mismatched_sizes": self.seed is not None,  # of the head of a classifier that is trained anew
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: number for number, label in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def allows_missing(self, name: str) -> bool:
        """Say whether a weight need not be there: a new head's."""
        return self.seed is not None and name.partition(".")[0] == HEAD


def finish_head(model: PreTrainedModel, head: Head) -> None:
    """Put a new head in, in float32 and drawn from the seed; set the padding. ModelError without a place for it."""
    if not isinstance(getattr(model, HEAD, None), nn.Linear):
        raise ModelError(
            f"{type(model).__name__} has no linear head called {HEAD!r} after its last token",
            where="model.path",
            fix="use a decoder such as Llama, Qwen, Mistral or GPT-2, or set data.classification: words",
            code="E4-HEAD",
        )
    text = cast("Any", model.config).get_text_config()
    if head.padding is not None:
        text.pad_token_id = head.padding
    if head.seed is not None:
        setattr(model, HEAD, _drawn(text.hidden_size, len(head.labels), _spread(text), head.seed).to(model.device))


def _spread(config: Any) -> float:
    return float(getattr(config, "initializer_range", None) or 0.02)


def _drawn(width: int, classes: int, spread: float, seed: int) -> nn.Linear:
    """Draw on the CPU, so that every device begins with the same head."""
    linear = nn.Linear(width, classes, bias=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        linear.weight.normal_(0.0, spread, generator=generator)
    return linear


def is_classifier(model: nn.Module) -> bool:
    """Say whether a base model ends in a classification head."""
    return type(model).__name__.endswith(ENDING)


def class_logits(base: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """Apply the head to hidden states [documents, hidden]; float32 [documents, classes].

    The head computes in its own dtype, float32 in training: it is small, and its gradient should not be rounded.
    """
    head = cast("nn.Module", getattr(base, HEAD))
    weight = next(head.parameters())
    with torch.autocast(states.device.type, enabled=False):
        logits: torch.Tensor = head(states.to(weight.dtype))
    return logits.float()


def head_weights(base: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Give the weights of the head in use, by the names they are stored under: those of the adapter, where one is."""
    module = getattr(base, HEAD)
    trained = getattr(module, "modules_to_save", None)
    head = module if trained is None else trained["default"]
    for name, parameter in head.named_parameters():
        yield f"{HEAD}.{name}", parameter.detach()


def labels_in(folder: Path) -> list[str]:
    """Name the classes of the classifier in a folder (a model, or an adapter with its config); [] if it is none."""
    if not (folder / CONFIG).is_file():
        return []
    config = read_config(folder / CONFIG)
    architectures, names = config.get("architectures"), config.get("id2label")
    is_head = isinstance(architectures, list) and any(str(name).endswith(ENDING) for name in architectures)
    if not is_head or not isinstance(names, Mapping):
        return []
    return [str(names[number]) for number in sorted(names, key=int)]


def class_settings(base: PreTrainedModel) -> dict[str, Any]:
    """Give what config.json must say of a classifier beyond what its base's says."""
    config = cast("Any", base.config)
    return {
        "architectures": [type(base).__name__],
        "id2label": {str(number): label for number, label in config.id2label.items()},
        "label2id": dict(config.label2id),
        "problem_type": config.problem_type,
        "pad_token_id": config.get_text_config().pad_token_id,
    }


def write_config(base: PreTrainedModel, folder: Path) -> None:
    """Write config.json beside an adapter: it names the classes, which the adapter's own file cannot."""
    config = cast("dict[str, Any]", json.loads(cast("Any", base.config).to_json_string()))
    config.pop("quantization_config", None)
    text = json.dumps(config | class_settings(base), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
