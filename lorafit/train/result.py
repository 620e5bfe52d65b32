"""What a run leaves behind: the adapter (or model), read back and checked, and its final state."""

import hashlib
from pathlib import Path
from shlex import quote
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from lorafit.data.prepare import PreparedData
from lorafit.errors import NumericalError, StorageError
from lorafit.model.adapt import Attached, save_adapter
from lorafit.model.init_from import WEIGHTS
from lorafit.recipe.adapters import Full
from lorafit.recipe.resolved import recipe_hash
from lorafit.recipe.schema import Recipe
from lorafit.report.card import adapter_card, model_card
from lorafit.report.units import duration, gibibytes
from lorafit.rundir.journal import read_metrics
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.step import StepRecord
from lorafit.rundir.store import Commit
from lorafit.train.checkpoint import Position
from lorafit.train.course import Course
from lorafit.train.record import Record
from lorafit.train.sizes import Sizes


def publish(
    record: Record,
    recipe: Recipe,
    attached: Attached,
    tokenizer: PreTrainedTokenizerBase,
    data: PreparedData,
    base_hash: str,
) -> Commit | None:
    """Commit the result with its tokenizer, template and card, after reading it back."""
    facts = {"recipe": recipe_hash(recipe), "data": data.fingerprint, "base": base_hash}
    full = isinstance(recipe.adapter, Full)

    def fill(folder: Path) -> None:
        if full:
            attached.model.save_pretrained(folder)
        else:
            save_adapter(attached.model, folder, facts)
            _check_adapter(attached.model, folder)
        tokenizer.save_pretrained(folder)
        trained, classes = attached.trainable_parameters, len(data.labels)
        card = model_card(recipe, trained, classes) if full else _adapter_card(recipe, attached, classes)
        (folder / "README.md").write_text(card, encoding="utf-8")

    return record.publish(record.folder.model if full else record.folder.adapter, fill, facts)


def _adapter_card(recipe: Recipe, attached: Attached, classes: int) -> str:
    trained, total = attached.trainable_parameters, attached.model_parameters
    return adapter_card(recipe, trained, total, len(attached.targets), classes)


def _check_adapter(model: torch.nn.Module, folder: Path) -> None:
    """Read the adapter back: the same tensors, finite, and every B moved from zero."""
    written = load_file(folder / WEIGHTS)
    held = get_peft_model_state_dict(cast("PeftModel", model), save_embedding_layers=False)
    if written.keys() != held.keys() or not all(torch.equal(written[n], held[n].cpu()) for n in held):
        raise StorageError(
            "the adapter reads back otherwise than it was written",
            where=str(folder),
            fix="look at the disk: it gives back other bytes than were written",
            code="E7-READ",
        )
    untrained = [name for name, tensor in written.items() if ".lora_B" in name and not tensor.any()]
    if untrained or not all(tensor.isfinite().all() for tensor in written.values()):
        problem = f"{len(untrained)} layers did not train ({untrained[0]})" if untrained else "it is not finite"
        raise NumericalError(
            f"the adapter is not sound: {problem}",
            fix="lower training.learning_rate, and look at the rows with lorafit preview",
            code="E8-ADAPTER",
        )


def summary(record: Record, course: Course, commit: Commit | None, sizes: Sizes) -> dict[str, object]:
    """Write result.json, tell the person what to do next, and give the final state."""
    position, folder = course.position, record.folder
    last = course.last or _last_step(folder)
    result: dict[str, object] = {
        "status": "finished",
        "steps": position.step,
        "loss": last.loss if last else None,
        "eval": _validation(position),
        "adapter": str(folder.adapter if folder.adapter.is_dir() else folder.model),
        "adapter_sha256": _weights_hash(commit) if commit else None,
        "peak_bytes": last.peak_bytes if last else None,
        "estimated_peak_bytes": sizes.estimated_peak_bytes,
        "seconds": round(position.seconds, 3),
        "tokens_per_second": round(position.tokens / position.seconds, 1) if position.seconds else None,
    }
    record.write_json(folder.result, result)
    record.say(_closing(folder, result))
    return result


def _last_step(folder: RunFolder) -> StepRecord | None:
    """Read the last step, where an earlier session took it and this one only had to publish."""
    lines = read_metrics(folder)
    return StepRecord(**lines[-1]) if lines else None


def _validation(position: Position) -> dict[str, object] | None:
    if position.validation_loss is None:
        return None
    return {"loss": position.validation_loss, "best_loss": position.best_loss}


def _weights_hash(commit: Commit) -> str:
    """Give the hash of the adapter's weights; of several files, the hash of their hashes."""
    hashes = [file.sha256 for file in commit.files if file.name.endswith(".safetensors")]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _closing(folder: RunFolder, result: dict[str, Any]) -> str:
    root = folder.root
    shown = root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root
    validation = f", validation loss {result['eval']['loss']:.4f}" if result["eval"] else ""
    loss = f"loss {result['loss']:.4f}{validation}; " if result["loss"] is not None else ""
    peak = gibibytes(result["peak_bytes"]) if result["peak_bytes"] else "unknown"
    lines = [
        f"finished {result['steps']} steps in {duration(result['seconds'])}: {loss}peak {peak}",
        f"{'adapter' if folder.adapter.is_dir() else 'model'}: {shown / Path(result['adapter']).name}",
        "next:",
        f"  lorafit eval {quote(str(shown))}{_eval_options(folder, result)}",
        f"  lorafit generate {quote(str(shown))} --prompt TEXT",
        f"  lorafit merge {quote(str(shown))} --out {quote(f'{shown}-merged')}",
    ]
    return "\n".join(lines)


def _eval_options(folder: RunFolder, result: dict[str, Any]) -> str:
    """Name rows where none were held out, and the base where there is an adapter to take off."""
    rows = "" if result["eval"] else " --data PATH"
    return rows + (" --compare-base" if folder.adapter.is_dir() else "")
