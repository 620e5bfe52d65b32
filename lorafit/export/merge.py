"""Fold a run's adapter into its base, write the result as a model of its own, and prove it the same function."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from lorafit.errors import ModelError, first_line
from lorafit.export.assemble import DtypeName, Merged, assemble
from lorafit.export.card import merged_card
from lorafit.export.folder import being_written, check_out, clear_leftovers, write_companions
from lorafit.export.shards import Weights, write_shards
from lorafit.export.verify import Proof, check_reloaded
from lorafit.model.load import read_weights
from lorafit.model.run import base_folder, read_recipe, result_folder
from lorafit.model.stops import tokenizer_stops
from lorafit.model.tokenizer import LOAD_ERRORS
from lorafit.recipe.adapters import Full
from lorafit.recipe.schema import Recipe
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.lock import RunLock
from lorafit.rundir.store import Store


@dataclass(frozen=True)
class MergeResult:
    """What was written, and how far its logits are from those of base and adapter."""

    out: str
    tensors_merged: int
    tensors_expected: int
    dtype: str
    dtype_reason: str  # why this one, where --dtype did not say; else ""
    max_logit_difference: float
    rounding_loss: float | None  # share of the adapter's effect that the cast took; None after full fine-tuning
    sha256: str  # of the weight files one after the other, as `cat *.safetensors | sha256sum` gives it

    def as_json(self) -> dict[str, object]:
        """Give the result to a program."""
        return asdict(self)

    def as_text(self) -> str:
        """Give the result to a person."""
        lost = "" if self.rounding_loss is None else f", {self.rounding_loss:.2%} of what the adapter does"
        reason = f" ({self.dtype_reason})" if self.dtype_reason else ""
        return (
            f"wrote {self.out}: {self.tensors_merged} of {self.tensors_expected} trained tensors in it\n"
            f"dtype: {self.dtype}{reason}\n"
            f"read back and compared: logits differ by {self.max_logit_difference:.2g} at most{lost}\n"
            f"next: lorafit generate {self.out} --prompt TEXT"
        )


def merge(run: Path, out: Path, dtype: DtypeName | None = None, force: bool = False) -> MergeResult:
    """Write the run's model, adapter folded in, to the folder `out`; it appears there whole and verified.

    Weights are folded in float32 and cast once, to `dtype` or what the run trained in (a quantised base:
    bfloat16, dequantised as it was trained on). Raises RecipeError and SafetyRefusal for `out`, ModelError
    when the adapter is damaged or the merged model is another function, StorageError.
    """
    folder = RunFolder(run.expanduser())
    with RunLock(folder, shared=True):
        recipe = read_recipe(folder)
        result = result_folder(folder, recipe)
        # the folder whose tensors the merged model has: the base, or what full fine-tuning made of it
        base = result if isinstance(recipe.adapter, Full) else base_folder(folder, recipe)
        out = check_out(out, force=force, run=folder.root, sources=[base, result])
        merged = assemble(folder.root, recipe, base, dtype)
    return _write(merged, recipe, base, out)


def _write(merged: Merged, recipe: Recipe, base: Path, out: Path) -> MergeResult:
    """Write, read back, compare, and only then give the folder its name."""
    writing = Writing(merged, merged.trained, recipe, base)
    facts = {"base": recipe.model.path, "adapter": recipe.adapter.kind, "dtype": merged.dtype_name}
    store = Store()
    clear_leftovers(out.parent, store)
    commit = store.commit_folder(out, writing.fill, facts, replace=True, expected_bytes=merged.size_bytes)
    weights = [out / file.name for file in commit.files if file.name.endswith(".safetensors")]
    return MergeResult(
        out=str(out),
        tensors_merged=writing.tensors_merged,
        tensors_expected=len(writing.trained),
        dtype=merged.dtype_name,
        dtype_reason=merged.dtype_reason,
        max_logit_difference=writing.proof.max_logit_difference,
        rounding_loss=writing.proof.rounding_loss,
        sha256=_hash_together(weights),
    )


@dataclass
class Writing:
    """Fills a folder with a merged model, and keeps what the proof found."""

    merged: Merged
    trained: set[str]
    recipe: Recipe
    base: Path
    tensors_merged: int = field(init=False)
    proof: Proof = field(init=False)

    def fill(self, folder: Path) -> None:
        """Write every file and read the model back. ModelError when it is not the same function."""
        with being_written(folder):
            self._write(folder)
            kind = AutoModelForSequenceClassification if self.merged.settings else AutoModelForCausalLM
            self.proof = check_reloaded(load_merged(folder, kind), self.merged.expected)

    def _write(self, folder: Path) -> None:
        write_shards(folder, self.merged.tensors())
        self.merged.replaced.clear()  # lets go of the base's weights before the merged ones are loaded
        tokenizer, dtype = self.merged.tokenizer, self.merged.dtype_name
        stops = sorted(tokenizer_stops(tokenizer))
        write_companions(folder, self.base, tokenizer, dtype, stops, self.merged.settings)
        (folder / "README.md").write_text(
            merged_card(self.recipe, dtype, classes=bool(self.merged.settings)), encoding="utf-8"
        )
        written = Weights.of(folder).files.keys()
        self.tensors_merged = len(self.trained & written)
        if written != self.merged.names:
            raise ModelError(
                "the merged model holds other tensors than its base",
                fix="this is a bug in lorafit or transformers: please report it, with the base's name",
                code="E4-KEYS",
            )


def load_merged(folder: Path, kind: Any = AutoModelForCausalLM) -> PreTrainedModel:
    """Load a merged model as anyone would. ModelError when it does not load, or a tensor has no place in it."""
    try:
        model, found = read_weights(kind, folder, {"dtype": "auto", "attn_implementation": "eager"})
    except LOAD_ERRORS as error:
        raise ModelError(
            f"the merged model does not load: {first_line(error)}",
            fix="this is a bug in lorafit or transformers: please report it, with the base's name",
            code="E4-RELOAD",
        ) from None
    lacking = [*sorted(map(str, found["missing_keys"])), *map(str, found["mismatched_keys"])]
    if lacking:
        what = f"the merged model lacks {len(lacking)} tensors, {lacking[0]} for one"
        raise ModelError(
            what,
            fix="this is a bug in lorafit or transformers: please report it, with the base's name",
            code="E4-RELOAD",
        )
    assert isinstance(model, PreTrainedModel)
    model.eval()
    return model


def _hash_together(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
