"""The data of a run of several processes: the first prepares them and decides, the others map what it made.

Whatever stops one of them, all learn of it, and end with the same exit code.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lorafit.data.cache import Cache, default_cache
from lorafit.data.prepare import PreparedData
from lorafit.errors import DataError, Fault, LorafitError, RankLost, first_line
from lorafit.model.tokenizer import read_data
from lorafit.recipe.schema import Recipe
from lorafit.train.ranks import Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PATIENCE = timedelta(days=7)  # for work that one process does and the others wait for
SPARE = "lorafit-data-"

Read = tuple[Path, "PreTrainedTokenizerBase", PreparedData]


@dataclass(frozen=True)
class Told:
    """What a process tells the others: what stopped it, or which data it has and the cache that holds them."""

    error: type[LorafitError] | None = None
    fingerprint: str = ""
    cache: Cache | None = None


def read_together(ranks: Ranks, recipe: Recipe) -> Read:
    """Read the data of a recipe, prepared by the first process alone. Raises, in all, what stops any of them.

    Rows that no cache holds (those behind a URL, of a hub data set) are prepared by each; DataError where the data
    are then not the same in all.
    """
    if ranks.count == 1:
        return read_data(recipe, default_cache())
    reading = _Reading(recipe)
    try:
        group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        if ranks.is_first:
            with _for_all() as cache:
                first = _broadcast(reading.attempt(cache), group)
                everyone = _gathered(first, ranks.count, group)
        else:
            first = _broadcast(Told(), group)
            everyone = _gathered(first if first.error else reading.attempt(first.cache), ranks.count, group)
            _tidy(first.cache)
    except RuntimeError as error:  # of gloo: what reading raises is kept
        raise RankLost(
            f"another process is gone: {first_line(error)}",
            fix="look at what that process said, then go on with --resume",
            code="E11-RANK",
        ) from None
    return reading.agreed(everyone, ranks.rank)


class _Reading:
    """The reading of one process, and what became of it."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.result: Read | None = None
        self.error: Exception | None = None

    def attempt(self, cache: Cache | LorafitError | None) -> Told:
        """Read the data, by the cache that is given."""
        try:
            if isinstance(cache, LorafitError):
                raise cache
            self.result = read_data(self.recipe, cache)
        except Exception as error:  # noqa: BLE001  # told to the others, then raised
            self.error = error
            return Told(type(error) if isinstance(error, LorafitError) else LorafitError)
        return Told(None, self.result[2].fingerprint, None if cache is None or cache.troubles else cache)

    def agreed(self, everyone: Sequence[Told], rank: int) -> Read:
        """Give what was read, if all processes have read the same; raise what stopped the first that was stopped."""
        stopped = next((number for number, told in enumerate(everyone) if told.error), None)
        if stopped == rank and self.error is not None:
            raise self.error
        if stopped is not None:
            kind = everyone[stopped].error or LorafitError
            own = self.error.faults if isinstance(self.error, LorafitError) else []
            raise kind(
                own
                or [
                    Fault(
                        f"process {stopped} could not prepare the data, and says why",
                        fix="mend what that process names",
                        code=f"E{kind.exit_code}-RANK",
                    )
                ]
            )
        if len({told.fingerprint for told in everyone}) > 1:
            raise DataError(
                "the data are not the same in every process", fix="give all the same files", code="E3-RANKS"
            )
        assert self.result is not None
        return self.result


@contextmanager
def _for_all() -> Iterator[Cache | LorafitError | None]:
    """Give the cache that all use, from which nothing goes while some have yet to map it.

    Without one, it is a folder that is gone again once all have mapped it. An error of the settings is given too.
    """
    try:
        kept = default_cache()
    except LorafitError as error:
        yield error
        return
    if kept is not None:
        yield replace(kept, limit_bytes=sys.maxsize)
        kept.trim()
        return
    try:
        spare = Path(tempfile.mkdtemp(prefix=SPARE))
    except OSError:  # no place for temporary files: each process prepares for itself
        yield None
        return
    cache = Cache(spare, sys.maxsize)
    try:
        yield cache
    finally:
        _tidy(cache)


def _tidy(cache: Cache | None) -> None:
    """Remove a folder that was for this run alone: on each machine, where they do not share it."""
    if cache is not None and cache.root.name.startswith(SPARE):
        shutil.rmtree(cache.root, ignore_errors=True)


def _broadcast(told: Told, group: Any) -> Told:
    """Give what the first process tells."""
    box = [told]
    torch.distributed.broadcast_object_list(box, src=0, group=group)
    return box[0]


def _gathered(told: Told, count: int, group: Any) -> list[Told]:
    """Give what every process tells, in their order."""
    box = [told] * count
    torch.distributed.all_gather_object(box, told, group=group)
    return box
