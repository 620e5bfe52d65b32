"""From a recipe to what the model is trained on: pure in the files, the tokenizer and the settings."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorafit.data.cache import Cache, Loaded
from lorafit.data.cache_key import DATA_VERSION, is_dated, tokenizer_hash
from lorafit.data.classes import check_classes
from lorafit.data.held_out import check_leaks, duplicates, overlap, split
from lorafit.data.load import Loader
from lorafit.data.mixing import weighted
from lorafit.data.packing import Packs, pack, unpacked
from lorafit.data.report import DataReport, SetReport, fingerprint
from lorafit.data.token_rows import TokenRows, joined, offsets, relabelled
from lorafit.errors import DataError
from lorafit.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Packs", "PreparedData", "TokenRows", "prepare"]


@dataclass(frozen=True)
class PreparedData:
    """What is trained and validated on, and the account of where it came from."""

    train: TokenRows
    train_packs: Packs
    validation: TokenRows | None
    validation_packs: Packs | None
    report: DataReport
    remarks: list[str] = field(default_factory=list)  # on how it came about this time: from the cache, or not

    @property
    def fingerprint(self) -> str:
        """Name everything that changes tokens."""
        return self.report.fingerprint

    @property
    def labels(self) -> list[str]:
        """Name the classes of a head by their number; [] where none is trained."""
        return self.report.labels


def prepare(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", cache: Cache | None = None) -> PreparedData:
    """Read, check, render, tokenise, split, mix and pack the rows of a recipe.

    Raises DataError with everything that is wrong with any row or source, ModelError for a tokenizer that
    cannot be used. What comes from the cache is the same as what is made afresh.
    """
    loader = Loader(recipe.data, tokenizer, cache)
    sources = [loader.load(source) for source in recipe.data.train]
    held_out = _own_validation(recipe, loader)
    if loader.faults:
        raise DataError(loader.faults)
    loaded = [source for source in sources if source is not None]
    check_classes(loaded, held_out)
    every = [*loaded, *([held_out] if held_out else [])]
    rows = joined([source.rows for source in loaded])
    chosen, validation = _divide(recipe, rows, held_out)
    mixed = _mixed(recipe, loaded, chosen)
    if len(chosen) < len(rows):
        rows, mixed = rows.take(chosen), np.searchsorted(chosen, mixed)
    train_packs = _packed(recipe, rows, mixed)
    packs = None if validation is None else _packed(recipe, validation, np.arange(len(validation)))
    report = DataReport(
        sources=[source.report for source in every],
        train=_set_report(rows, train_packs, recipe.data.max_length),
        validation=_set_report(validation, packs, recipe.data.max_length) if validation and packs else None,
        max_length=recipe.data.max_length,
        histogram=_histogram(rows.lengths),
        overlap=None if validation is None else overlap(rows, validation),
        fingerprint=_fingerprint(recipe, tokenizer, every),
        notes=[*_template_notes(tokenizer), *_class_notes(rows, validation)],
        labels=list(rows.labels),
        class_rows=_class_rows(rows, train_packs),
    )
    return PreparedData(rows, train_packs, validation, packs, report, _remarks(every, cache))


def _class_rows(rows: TokenRows, packs: Packs) -> list[int]:
    """Count the rows to train on, of each class."""
    classes = rows.classes
    counts = [] if classes is None else np.bincount(classes[packs.rows], minlength=len(rows.labels)).tolist()
    return [int(count) for count in counts]


def _class_notes(rows: TokenRows, validation: TokenRows | None) -> list[str]:
    """Say which classes are measured but never trained, a fraction having taken every row of them."""
    if validation is None or rows.classes is None or validation.classes is None:
        return []
    lacking = len(np.setdiff1d(validation.classes, rows.classes))
    return [f"every row of {lacking:,} classes was held out, so that they are not trained"] if lacking else []


def _own_validation(recipe: Recipe, loader: Loader) -> Loaded | None:
    held_out = recipe.data.validation
    return loader.load(held_out) if held_out is not None and held_out.path is not None else None


def _divide(recipe: Recipe, rows: TokenRows, held_out: Loaded | None) -> tuple[NDArray[np.int64], TokenRows | None]:
    """Give the numbers of the rows to train on, and the rows to validate on."""
    everything = np.arange(len(rows), dtype=np.int64)
    if held_out is not None:
        check_leaks(rows, held_out.rows)
        return everything, relabelled(held_out.rows, rows.labels)
    if recipe.data.validation is None:
        return everything, None
    fraction = recipe.data.validation.fraction
    assert fraction is not None
    train, validation = split(rows.hashes(), fraction, recipe.seed)
    return train, rows.take(validation)


def _mixed(recipe: Recipe, loaded: Sequence[Loaded], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the rows to train on as often as the weight of their source says."""
    edges = offsets(np.array([len(source.rows) for source in loaded], dtype=np.int64))
    parts = []
    for number, source in enumerate(recipe.data.train):
        own = chosen[(chosen >= edges[number]) & (chosen < edges[number + 1])]
        parts.append(own if source.weight == 1 else weighted(own, source.weight, recipe.seed, number))
    return np.concatenate(parts)


def _packed(recipe: Recipe, rows: TokenRows, chosen: NDArray[np.int64]) -> Packs:
    if not recipe.data.packing:
        return unpacked(chosen)
    return pack(chosen, rows.lengths[chosen], recipe.data.max_length, recipe.seed)


def _set_report(rows: TokenRows, packs: Packs, max_length: int) -> SetReport:
    every = np.arange(len(packs))
    tokens = packs.tokens(rows, every)
    return SetReport(
        rows=len(packs.rows),
        duplicates=duplicates(rows.hashes()[np.flatnonzero(np.bincount(packs.rows))]),
        packs=len(packs),
        tokens=tokens,
        target_tokens=packs.target_tokens(rows, every),
        fill=tokens / (len(packs) * max_length),
        content=_content_hash(rows),
    )


def _histogram(lengths: NDArray[np.int64]) -> dict[str, int]:
    """Count rows by length: the key is the power of two that a row does not exceed."""
    powers = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    counts = np.bincount(powers)
    return {str(2**power): int(count) for power, count in enumerate(counts) if count}


def _template_notes(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    if not is_dated(tokenizer):
        return []
    return [
        "the chat template writes the date: a run keeps that of the day it began, whoever asks its model gives "
        "that of the day; a template with a fixed date (data.chat_template) writes the same always"
    ]


def _fingerprint(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", loaded: Sequence[Loaded]) -> str:
    return fingerprint(
        {
            "version": DATA_VERSION,
            "seed": recipe.seed,
            "data": recipe.data.model_dump(mode="json", exclude={"chat_template"}),
            "content": [_content(source, dated=is_dated(tokenizer)) for source in loaded],
            "template": str(tokenizer.chat_template),
            "special_tokens": {key: str(value) for key, value in tokenizer.special_tokens_map.items()},
            "tokenizer": next(filter(None, (source.tokenizer_hash for source in loaded)), None)
            or tokenizer_hash(tokenizer),
        }
    )


def _content(source: Loaded, *, dated: bool) -> list[str]:
    """Name the bytes of a source: its files', and its tokens' where the files do not say it all."""
    found = [record.sha256 for record in source.report.files]
    return [*found, _content_hash(source.rows)] if dated or not found else found


def _content_hash(rows: TokenRows) -> str:
    return hashlib.sha256(rows.hashes().tobytes()).hexdigest()


def _remarks(loaded: Sequence[Loaded], cache: Cache | None) -> list[str]:
    """Say where the tokens came from."""
    hits = sum(source.from_cache for source in loaded)
    where = "from the cache" if hits == len(loaded) else f"{hits} of {len(loaded)} sources from the cache"
    return [*([f"data: {where}"] if hits else []), *(cache.troubles if cache else [])]
