"""Load a base model with its quantisation, ready to train or to answer."""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from lorafit.errors import MachineError, ModelError, first_line
from lorafit.model.classify import HEAD, Head, finish_head
from lorafit.model.find import check_weights, find_model, refuse_code
from lorafit.model.tokenizer import LOAD_ERRORS
from lorafit.plan.find_shape import read_config
from lorafit.recipe.quantization import Bits4, Quantization, Unquantized
from lorafit.recipe.schema import Dtype, ModelSpec

LoadingInfo = Mapping[str, Collection[object]]
Reader = Callable[[Any, Path, Mapping[str, Any]], tuple[PreTrainedModel, LoadingInfo]]
OUTPUT_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")  # what language models call it


@dataclass(frozen=True)
class Base:
    """A frozen base model on its device."""

    folder: Path
    model: PreTrainedModel
    device: torch.device
    dtype: torch.dtype


def pick_device(local_rank: int = 0) -> torch.device:
    """Give this process's card, or the CPU."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def computes_in_bfloat16(device: torch.device) -> bool:
    """Tell whether the device has products in bfloat16 of its own."""
    return device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)


def pick_dtype(wanted: Dtype, device: torch.device) -> torch.dtype:
    """Resolve `auto`: bfloat16 on a card that computes in it, else float32. MachineError when it cannot be."""
    has_bfloat16 = computes_in_bfloat16(device)
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bfloat16 else torch.float32
    if wanted == "bfloat16" and not has_bfloat16:
        raise MachineError(
            f"{torch.cuda.get_device_name(device)} does not compute in bfloat16",
            where="model.dtype",
            fix="set model.dtype: float32",
            code="E5-DTYPE",
        )
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def load_base(
    spec: ModelSpec,
    quantization: Quantization,
    device: torch.device,
    folder: Path | None = None,
    head: Head | None = None,
    *,
    sharded: bool = False,
) -> Base:
    """Load the base model, frozen, in evaluation mode; with `head` as a classifier instead of a language model.

    Weights come straight to the device in their dtype; quantised ones shard by shard. Norms, embeddings and
    head keep the model's dtype (no float32 upcast). `sharded`: every process of the group calls this, and holds its
    part of the weights, which pass from the mapped files through the device a layer at a time.

    Raises ModelError, MachineError, SafetyRefusal.
    """
    folder = folder or find_model(spec.path, spec.revision)
    refuse_code(folder, read_config(folder / "config.json"))
    check_weights(folder)
    dtype = pick_dtype(spec.dtype, device)
    attention = None if spec.attention == "auto" else spec.attention  # None: what transformers knows to be right
    settings = {
        "dtype": dtype,
        "device_map": {"": torch.device("cpu") if sharded else device},
        "attn_implementation": attention,
    }
    quantizing = _quantization_config(quantization, dtype, head)
    if not sharded:
        settings["quantization_config"] = quantizing
    read = read_mapped if sharded else read_weights
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers repeats what we say ourselves
            if head is None:
                model, found = read(AutoModelForCausalLM, folder, settings)
            else:
                model, found = read_classifier(read, folder, settings | head.settings())
    except ImportError as error:
        raise MachineError(
            first_line(error),
            where="model",
            fix="install what it names; lorafit doctor lists what is there",
            code="E5-LIBRARY",
        ) from None
    except torch.OutOfMemoryError:
        raise  # the training loop says what would fit
    except LOAD_ERRORS as error:
        raise ModelError(
            f"cannot load the model: {first_line(error)}",
            where=str(folder),
            fix="get its files again, or look whether this transformers knows the model: lorafit doctor",
            code="E4-LOAD",
        ) from None
    _refuse_gaps(found, folder, head)
    if head is not None:
        finish_head(model, head)
    model.requires_grad_(False)
    if sharded:
        from lorafit.model.sharding import shard  # its imports are for several processes only

        shard(model, device, quantizing, None if keeps_float32(model) else dtype)
        model.config.dtype = dtype
    if isinstance(quantization, Bits4):
        _keep_weights_trainable_through(model)
    return Base(folder, model.eval(), device, dtype)


def read_weights(kind: Any, folder: Path, settings: Mapping[str, Any]) -> tuple[PreTrainedModel, LoadingInfo]:
    """Load a model and say which weights were missing, of another shape, or not asked for; nothing is fetched."""
    loaded: tuple[PreTrainedModel, LoadingInfo] = kind.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **settings,
    )
    return loaded


def read_mapped(kind: Any, folder: Path, settings: Mapping[str, Any]) -> tuple[PreTrainedModel, LoadingInfo]:
    """Load a model likewise, its weights mapped from the files: they take memory when they are used, and are shared.

    transformers itself copies what it reads. They keep the dtype they are stored in, for whoever moves them to bring
    to the wanted one; but of an architecture that keeps some in float32 whatever is wanted, transformers copies all.
    """
    tensors = _mapped(folder)
    config, others = AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, return_unused_kwargs=True, **settings
    )
    with torch.device("meta"):
        empty = kind.from_config(config, trust_remote_code=False)
    if not keeps_float32(empty):
        empty.config.dtype = _most_common_dtype(tensors)
    loaded: tuple[PreTrainedModel, LoadingInfo] = type(empty).from_pretrained(
        None, config=empty.config, state_dict=tensors, output_loading_info=True, **others
    )
    return loaded


def keeps_float32(model: Any) -> bool:
    """Tell whether an architecture keeps some of its weights in float32, whatever dtype is wanted."""
    return bool(model._keep_in_fp32_modules or model._keep_in_fp32_modules_strict)


def _most_common_dtype(tensors: Mapping[str, torch.Tensor]) -> torch.dtype:
    """Give the floating-point dtype that most bytes are in."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += tensor.nbytes if tensor.is_floating_point() else 0
    return sizes.most_common(1)[0][0]


def _mapped(folder: Path) -> dict[str, torch.Tensor]:
    """Map every tensor of a model folder."""
    index = folder / "model.safetensors.index.json"
    names = set(cast("Any", read_config(index))["weight_map"].values()) if index.exists() else {"model.safetensors"}
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(names):
        with safe_open(folder / name, framework="pt") as file:
            tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    return tensors


def read_classifier(read: Reader, folder: Path, settings: Mapping[str, Any]) -> tuple[PreTrainedModel, LoadingInfo]:
    """Load a classifier; a tied embedding may be stored under the name of the output head, which a classifier lacks.

    transformers could be told that other name too, but would then save the model under it, and unable to load.
    """
    model, found = read(AutoModelForSequenceClassification, folder, settings)
    table = cast("torch.Tensor", model.get_input_embeddings().weight)
    name = next((name for name, parameter in model.named_parameters() if parameter is table), None)
    heads = [key for key in OUTPUT_HEADS if key in found["unexpected_keys"]]
    if name in found["missing_keys"] and heads:
        table.data.copy_(_stored(folder, heads[0]))
        found = {**found, "missing_keys": {key for key in found["missing_keys"] if key != name}}
    return model, found


def _stored(folder: Path, name: str) -> torch.Tensor:
    """Read one tensor of a model folder, of which it is known to be there."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 - no mapping
                tensor: torch.Tensor = file.get_tensor(name)
                return tensor
    raise KeyError(name)


def _refuse_gaps(found: LoadingInfo, folder: Path, head: Head | None) -> None:
    """Raise ModelError when weights are missing or of another shape: transformers draws those at random."""
    mismatched = (key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"])
    gaps = [*sorted(map(str, found["missing_keys"])), *sorted(map(str, mismatched))]
    gaps = [name for name in gaps if head is None or not head.allows_missing(name)]
    if gaps:
        raise ModelError(
            f"{len(gaps)} weights are missing or of another shape, {gaps[0]} for one",
            where=str(folder),
            fix="the files are incomplete, or belong to another config.json; get them again",
            code="E4-WEIGHTS",
        )


def _keep_weights_trainable_through(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on the CPU.

    On a CPU with AVX512-BF16 its first forward in evaluation mode repacks them for a kernel that has no
    backward, for good: training after any evaluation would then go on with wrong gradients, in silence.
    https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/nn/modules.py#L613
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def compute_dtype(quantization: Quantization, dtype: torch.dtype) -> torch.dtype:
    """Give the dtype that products are computed in."""
    if isinstance(quantization, Bits4) and quantization.compute_dtype != "auto":
        chosen: torch.dtype = getattr(torch, quantization.compute_dtype)
        return chosen
    return dtype


def _quantization_config(quantization: Quantization, dtype: torch.dtype, head: Head | None) -> Any:
    if isinstance(quantization, Unquantized):
        return None
    config: Any = quantization.build(compute_dtype(quantization, dtype))
    if head is not None:
        config.llm_int8_skip_modules = [HEAD]
    return config
