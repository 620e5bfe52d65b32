"""The proof of a merge: on the same rows, the merged model is the function that was trained.

All logits are computed in float32 arithmetic, so that what differs is the weights and not their rounding on
the way. Three steps are checked apart, each as sharply as it can be:

1. The fold: folded weights, not yet cast, against base and adapter as PEFT computes them. Float32 noise only.
2. The files: the model read back from disk against the folded weights after the one cast. Float32 noise only.
3. The cast: what 16 bits take from the adapter, as a share of what the adapter does. Below a half the merged
   model is surely nearer to the adapter than to the base; at one, rounding has eaten the tune, as it does when
   updates are smaller than the last digit of a weight.

A single bound on the difference after the cast, as other tools use, is either too tight for bfloat16 or so
loose that a scale wrong by a tenth passes.
"""

from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from lorafit.errors import ModelError
from lorafit.export.arithmetic import float32_logits
from lorafit.export.fold import FoldedLinear, fold, table_of

TOLERANCE = 1e-4  # of a logit in float32
RELATIVE_TOLERANCE = 1e-5  # of the largest logit, for deep models with large ones
LARGEST_ROUNDING_LOSS = 0.5


@dataclass(frozen=True)
class Expected:
    """Logits [tokens, vocab] that the merged model has to show on the probe rows."""

    rows: list[list[int]]
    trained: torch.Tensor  # base and adapter
    base: torch.Tensor | None  # the base alone; None after full fine-tuning
    cast: torch.Tensor  # the trained weights, folded and rounded to the dtype of the merged model

    @property
    def tolerance(self) -> float:
        """The largest difference that float32 noise explains."""
        return max(TOLERANCE, RELATIVE_TOLERANCE * float(self.trained.abs().max()))


@dataclass(frozen=True)
class Proof:
    """How far the merged model is from what was trained."""

    max_logit_difference: float
    rounding_loss: float | None  # share of the adapter's effect that the cast took; None after full fine-tuning


def fold_and_expect(
    model: nn.Module, rows: list[list[int]], dtype: torch.dtype
) -> tuple[dict[str, FoldedLinear], Expected]:
    """Fold the adapter in, round everything to `dtype`, and record the logits before and after.

    Gives the folded layers by their name in the base. ModelError when folding changes the function.
    """
    trained = float32_logits(model, rows)
    base: torch.Tensor | None = None
    layers: dict[str, FoldedLinear] = {}
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            base = float32_logits(model, rows)
        layers = fold(model)
        _check_fold(Expected(rows, trained, base, float32_logits(model, rows)))
    round_weights(model, dtype)
    return layers, Expected(rows, trained, base, float32_logits(model, rows))


def round_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Round every weight to a dtype, in the place where it is stored; folded ones as they are computed."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).to(parameter.dtype)
    for module in model.modules():
        if isinstance(module, FoldedLinear):
            module.dtype = dtype


def _check_fold(expected: Expected) -> None:
    difference = _largest(expected.cast - expected.trained)
    if not difference <= expected.tolerance:
        raise ModelError(
            f"the folded weights are not the function of the adapter: logits differ by {difference:.3g}, "
            f"{expected.tolerance:.1g} at most is float32 noise",
            fix="use the adapter unmerged, and report this with its adapter_config.json",
            code="E4-FOLD",
        )


def check_reloaded(merged: PreTrainedModel, expected: Expected) -> Proof:
    """Compare the model read back from disk with what was trained.

    ModelError when the files are not what was folded, or when the cast has undone what was learned.
    """
    logits = float32_logits(merged, expected.rows)
    wrong = _largest(logits - expected.cast)
    if not wrong <= expected.tolerance:
        raise ModelError(
            f"the model read back from disk is not what was written: logits differ by {wrong:.3g}, "
            f"{expected.tolerance:.1g} at most is float32 noise",
            fix="merge again; if it stays, look at the disk, then report this",
            code="E4-RELOAD",
        )
    _check_tied(merged)
    lost = logits - expected.trained
    return Proof(_largest(lost), _rounding_loss(lost, expected))


def _rounding_loss(lost: torch.Tensor, expected: Expected) -> float | None:
    """Give what the cast took, as a share of what the adapter gave. ModelError when it took half or more."""
    if expected.base is None:
        return None
    share = float(lost.norm() / (expected.trained - expected.base).norm())
    if not share < LARGEST_ROUNDING_LOSS:
        raise ModelError(
            f"rounding undoes the adapter: it moves the logits by {share:.0%} of what training moved them",
            fix="merge with --dtype float32, or keep the adapter unmerged",
            code="E4-CAST",
        )
    return share


def _check_tied(merged: PreTrainedModel) -> None:
    """Raise ModelError when config.json ties head and embedding, and the files untied them."""
    head = merged.get_output_embeddings()
    tied = merged.config.get_text_config().tie_word_embeddings
    if tied and isinstance(head, nn.Linear) and not torch.equal(head.weight, table_of(merged).weight):
        raise ModelError(
            "head and embedding are tied in config.json but differ in the weights",
            fix="set tie_word_embeddings: false in the base's config.json, if its head is its own",
            code="E4-TIED",
        )


def _largest(difference: torch.Tensor) -> float:
    """Give the largest absolute value; NaN where there is one."""
    return float(difference.abs().max())
