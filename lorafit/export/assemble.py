"""A merged model before it is written: where each tensor comes from, and what the whole must compute."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorafit.errors import ModelError
from lorafit.export.fold import FoldedLinear, table_of, unpack
from lorafit.export.probe import probe_rows
from lorafit.export.shards import Weights
from lorafit.export.verify import Expected, fold_and_expect
from lorafit.model.adapt import base_of
from lorafit.model.classify import HEAD, class_settings, head_weights
from lorafit.model.load import OUTPUT_HEADS
from lorafit.model.run import Loaded, load_run
from lorafit.plan.find_shape import read_config
from lorafit.recipe.quantization import Unquantized
from lorafit.recipe.schema import Recipe

DtypeName = Literal["float32", "bfloat16", "float16"]
Replaced = dict[str, FoldedLinear | nn.Linear]


@dataclass(frozen=True)
class Merged:
    """The tensors of a merged model, each made when it is asked for."""

    stored: Weights
    replaced: Replaced  # by the name that the layer's weight is stored under
    trained_dtype: torch.dtype
    dtype: torch.dtype
    dtype_reason: str  # why this one, where nobody named one; "" where it was named
    expected: Expected
    tokenizer: PreTrainedTokenizerBase
    parameters: int
    head: dict[str, torch.Tensor] = field(default_factory=dict)  # a classifier's; a base may store another
    renamed: dict[str, str] = field(default_factory=dict)  # tensors that the base stores under another name
    settings: dict[str, Any] = field(default_factory=dict)  # what config.json says of a classifier

    @property
    def dtype_name(self) -> str:
        """The dtype as config.json and the command line spell it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights."""
        return self.parameters * self.dtype.itemsize

    @property
    def trained(self) -> set[str]:
        """Name the tensors that hold what was learned: those with an adapter, or all after full fine-tuning."""
        folded = {name for name, layer in self.replaced.items() if isinstance(layer, FoldedLinear)}
        return folded | self.head.keys() if folded else self.names

    @property
    def names(self) -> set[str]:
        """Name every tensor that is written."""
        return {self.renamed.get(name, name) for name in self.stored.files} | self.head.keys()

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Give every tensor, one at a time. ModelError for one that is not finite."""
        for name, tensor in self.stored.read():
            layer = self.replaced.get(name)
            merged = self._as_trained(tensor) if layer is None else layer.weight.detach()
            yield self.renamed.get(name, name), self._cast(name, merged)
        for name, tensor in self.head.items():
            yield name, self._cast(name, tensor)

    def _cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype)
            _check_finite(name, tensor)
        return tensor.contiguous()

    def _as_trained(self, tensor: torch.Tensor) -> torch.Tensor:
        """Round as loading for training did; the one cast of the merge comes on top of that."""
        return tensor.to(self.trained_dtype) if tensor.is_floating_point() else tensor


def assemble(root: Path, recipe: Recipe, base: Path, dtype_name: DtypeName | None) -> Merged:
    """Load a run and fold it. ModelError when the base is stored quantised, or the fold is another function."""
    if "quantization_config" in read_config(base / "config.json"):
        raise ModelError(
            "the base is stored quantised, and this version merges into 16- and 32-bit checkpoints only",
            where=str(base),
            fix="train on the original model with quantization.kind: nf4, which holds it as small",
            code="E4-STORED-QUANTIZED",
        )
    loaded = load_run(root)
    model: nn.Module = loaded.model
    unpacked = unpack(model)
    base_of(model).set_attn_implementation("eager")  # the one that every model has on the host
    parameters = sum(parameter.numel() for parameter in model.parameters())
    table = table_of(model)
    dtype, reason = _pick_dtype(recipe, table.weight.dtype, dtype_name)
    rows = probe_rows(recipe, loaded.tokenizer, vocabulary=table.num_embeddings)
    folded, expected = fold_and_expect(model, rows, dtype)
    stored = Weights.of(base)
    if loaded.labels:
        return _classifier(stored, loaded, {**unpacked, **folded}, dtype, reason, expected, table.weight.dtype)
    replaced = by_stored_name({**unpacked, **folded}, stored, base_of(model).base_model_prefix)
    return Merged(stored, replaced, table.weight.dtype, dtype, reason, expected, loaded.tokenizer, parameters)


def _classifier(
    stored: Weights,
    loaded: Loaded,
    layers: Mapping[str, FoldedLinear | nn.Linear],
    dtype: torch.dtype,
    dtype_reason: str,
    expected: Expected,
    trained_dtype: torch.dtype,
) -> Merged:
    """A classifier has what its base stores but for a head of either kind, and its own head beside it."""
    base = base_of(loaded.model)
    kept, renamed = without_output_head(without_class_head(stored), base)
    return Merged(
        stored=kept,
        replaced=by_stored_name(layers, kept, base.base_model_prefix),
        trained_dtype=trained_dtype,
        dtype=dtype,
        dtype_reason=dtype_reason,
        expected=expected,
        tokenizer=loaded.tokenizer,
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        head=dict(head_weights(base)),
        renamed=renamed,
        settings=class_settings(base),
    )


def without_class_head(stored: Weights) -> Weights:
    """Leave out the head of a base that was a classifier: the run has drawn and trained its own."""
    files = {name: file for name, file in stored.files.items() if name.partition(".")[0] != HEAD}
    return Weights(stored.folder, files)


def without_output_head(stored: Weights, base: PreTrainedModel) -> tuple[Weights, dict[str, str]]:
    """Leave the output head out of what is stored, or rename it where it alone holds the tied embedding."""
    heads = [name for name in stored.files if name in OUTPUT_HEADS]
    table = base.get_input_embeddings().weight
    name = next(name for name, parameter in base.named_parameters() if parameter is table)
    if name in stored.files or name.removeprefix(f"{base.base_model_prefix}.") in stored.files:
        files = {name: file for name, file in stored.files.items() if name not in heads}
        return Weights(stored.folder, files), {}
    return stored, {heads[0]: name} if heads else {}


def _pick_dtype(recipe: Recipe, trained: torch.dtype, named: DtypeName | None) -> tuple[torch.dtype, str]:
    """Give the dtype to write, and why it is that one where nobody named it."""
    if named is not None:
        return getattr(torch, named), ""
    if isinstance(recipe.quantization, Unquantized):
        dtype, reason = trained, "what the run trained in"
    else:
        dtype, reason = torch.bfloat16, f"the default after training on a base in {recipe.quantization.kind}"
    wider = "" if dtype == torch.float32 else "; --dtype float32 rounds nothing away, in twice the bytes"
    return dtype, f"{reason}{wider}"


def by_stored_name(layers: Mapping[str, FoldedLinear | nn.Linear], stored: Weights, prefix: str) -> Replaced:
    """Find the stored tensor of each layer; files may leave out, or add, the prefix of the model's body.

    ModelError when one is not found: its layer would be written as it was.
    """
    by_weight = {f"{name}.weight": layer for name, layer in layers.items()}
    found = {}
    for name in stored.files:
        spellings = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
        match = next((spelling for spelling in spellings if spelling in by_weight), None)
        if match is not None:
            found[name] = by_weight.pop(match)
    if by_weight:
        raise ModelError(
            f"the base stores {len(by_weight)} of {len(layers)} weights to replace under another name, "
            f"{min(by_weight)} for one",
            where=str(stored.folder),
            fix="save the base with transformers' save_pretrained, and train on that",
            code="E4-STORED-NAME",
        )
    return found


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    if not tensor.isfinite().all():
        raise ModelError(
            f"{name} is not finite as {tensor.dtype}",
            fix="merge with --dtype bfloat16 or float32, whose range is larger than float16's",
            code="E4-NOT-FINITE",
        )
