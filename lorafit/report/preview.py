"""The rows of a recipe as the model will see them: the labels are those of the training batches themselves."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorafit import assets
from lorafit.data.batch import IGNORED, flat_batch
from lorafit.data.packing import Packs, unpacked
from lorafit.data.prepare import PreparedData
from lorafit.data.report import DataReport
from lorafit.data.token_rows import TokenRows
from lorafit.errors import DataError
from lorafit.model.tokenizer import read_rows
from lorafit.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PackView:
    """A pack that a row stands in."""

    number: int  # from 1
    tokens: int
    neighbours: list[str]  # file:line of the other rows in it, a row that comes twice among them


@dataclass(frozen=True)
class RowView:
    """A row as a training batch holds it."""

    source: str  # file:line
    text: str
    input_ids: list[int]
    labels: list[int]  # at the token's own place; -100 where it is not trained
    label: str | None  # the class, under a head
    truncated: bool
    packs: list[PackView]  # as often as an epoch trains on it

    @property
    def trained(self) -> list[bool]:
        """Say of each token whether the loss counts it."""
        return [label != IGNORED for label in self.labels]

    def as_json(self) -> dict[str, object]:
        """Give the row to a program."""
        row = asdict(self)
        row["class"] = row.pop("label")
        return row


@dataclass(frozen=True)
class Share:
    """What an epoch takes of a source."""

    path: str
    rows: int
    tokens: int
    target_tokens: int


class Preview:
    """Some rows, and the account of all."""

    def __init__(self, data: PreparedData, tokenizer: "PreTrainedTokenizerBase", chosen: NDArray[np.int64]) -> None:
        self.data, self.tokenizer, self.chosen = data, tokenizer, chosen
        self.special = frozenset(tokenizer.all_special_ids) | {
            number for number, token in tokenizer.added_tokens_decoder.items() if token.special
        }

    @property
    def report(self) -> DataReport:
        """The account of the data."""
        return self.data.report

    def decode(self, ids: list[int]) -> str:
        """Give the text of tokens as they are, special ones and all."""
        return str(self.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False))

    def rows(self) -> Iterator[RowView]:
        """Give the rows in the order of their files."""
        for number in self.chosen.tolist():
            yield self._row(number)

    def _row(self, number: int) -> RowView:
        rows, classes = self.data.train, self.data.train.classes
        batch = flat_batch(rows, unpacked(np.array([number])), np.array([0]))
        ids = batch.input_ids.tolist()
        return RowView(
            source=shown_place(rows, number),
            text=self.decode(ids),
            input_ids=ids,
            labels=batch.labels.tolist(),
            label=None if classes is None else self.data.labels[int(classes[number])],
            truncated=bool(rows.unfinished[number]),
            packs=_packs_of(number, rows, self.data.train_packs),
        )

    def mix(self) -> list[Share]:
        """Give what an epoch takes of each source, by the weights of the recipe."""
        rows, taken = self.data.train, self.data.train_packs.rows
        part_of = rows.table["part"][taken]
        shares = []
        for number, source in enumerate(source for source in self.report.sources if source.use == "train"):
            own = taken[part_of == number]
            sizes = (len(own), int(rows.lengths[own].sum()), int(rows.row_targets[own].sum()))
            shares.append(Share(source.path, *sizes))
        return shares

    def as_json(self) -> dict[str, object]:
        """Give rows, counts and the account to a program."""
        return {
            "rows": [row.as_json() for row in self.rows()],
            "counts": asdict(self.report.counts),
            "mix": [asdict(share) for share in self.mix()],
            "report": self.report.as_json(),
        }


def shown_place(rows: TokenRows, number: int) -> str:
    """Give where a row comes from as `file:line`, the same on every machine for what is built in."""
    return assets.shown(rows.place(number))


def look(recipe: Recipe, count: int, place: str | None = None) -> Preview:
    """Prepare the data as `train` does, and pick the first `count` rows that are trained, or the one at a place.

    Raises what `train` raises before it loads weights, and DataError when no trained row stands at the place.
    """
    tokenizer, data = read_rows(recipe)
    trained = np.unique(data.train_packs.rows)
    chosen = trained[:count] if place is None else np.array([_at(place, data, trained)])
    return Preview(data, tokenizer, chosen)


def _at(place: str, data: PreparedData, trained: NDArray[np.int64]) -> int:
    """Find the row at `file:line`; the file may be named without its folder."""
    found = _find(place, data.train, trained)
    if found is not None:
        return found
    for bad in (row for source in data.report.sources for row in source.bad_rows):
        if _means(place, bad.where):
            raise DataError(
                f"the row is left out: {bad.reason}",
                where=bad.where,
                fix="mend the row; lorafit preview counts all that are left out",
                code=bad.code,
            )
    fix = "give a place as preview writes it, such as train.jsonl:12"
    raise DataError(_absence(place, data), where=place, fix=fix, code="E3-NO-ROW")


def _absence(place: str, data: PreparedData) -> str:
    """Say why no trained row stands at a place, as far as is known."""
    if data.validation is not None and _find(place, data.validation, np.arange(len(data.validation))) is not None:
        return "the row is held out for validation, not trained"
    if _find(place, data.train, np.arange(len(data.train))) is not None:
        return "the weight of its source leaves the row out"
    dropped = data.report.counts.dropped
    return "no trained row stands there" + (f"; {dropped:,} rows were dropped for their length" if dropped else "")


def _find(place: str, rows: TokenRows, among: NDArray[np.int64]) -> int | None:
    return next((n for n in among.tolist() if _means(place, shown_place(rows, n))), None)


def _means(asked: str, place: str) -> bool:
    return asked == place or asked == Path(place).name


def _packs_of(number: int, rows: TokenRows, packs: Packs) -> list[PackView]:
    positions = np.flatnonzero(packs.rows == number)
    return [_pack_view(int(at), rows, packs) for at in positions]


def _pack_view(position: int, rows: TokenRows, packs: Packs) -> PackView:
    pack = int(np.searchsorted(packs.starts, position, side="right")) - 1
    inside = range(int(packs.starts[pack]), int(packs.starts[pack + 1]))
    neighbours = [shown_place(rows, int(packs.rows[other])) for other in inside if other != position]
    return PackView(pack + 1, packs.tokens(rows, np.array([pack])), neighbours)
