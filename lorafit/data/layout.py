"""Which column of a source is which field of its format: found once, said once, and the same for every row."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorafit.errors import DataError
from lorafit.recipe.formats import FORMATS, Example, FormatName, RowFault, classification, detect, fields_of, parse
from lorafit.recipe.formats.fields import kind_of, quoted
from lorafit.recipe.schema import Source, Validation
from lorafit.recipe.suggest import did_you_mean, nearest

Fields = Mapping[str, Any]


@dataclass
class Layout:
    """How the rows of one source are read."""

    format: FormatName
    columns: dict[str, str]  # field -> column, where the recipe or the format's habits say so
    seen: set[str] = field(default_factory=set)  # columns met so far
    label_kind: str = ""

    def parse(self, row: Fields) -> Example:
        """Read a row; RowFault when it is not one of this format."""
        self.seen.update(row)
        if not self.columns:
            return parse(self.format, row)
        fields = self._renamed(row)
        try:
            if self.format == "classification":
                self._check_label(fields)
            return parse(self.format, fields)
        except RowFault as fault:
            raise self._in_words_of_the_file(fault) from None

    def note(self) -> str:
        """Say which columns were read and which were not; "" when all were, under their own names."""
        read = fields_of(self.format)
        renamed = {name: column for name, column in self.columns.items() if name != column and column in self.seen}
        taken = set(self.columns.values())
        plain = [name for name in read if name in self.seen and name not in {*self.columns, *taken}]
        named = [name for name, column in self.columns.items() if name == column and column in self.seen]
        used = [*plain, *named, *taken & self.seen]
        ignored = sorted(self.seen - set(used))
        if not ignored and not renamed:
            return ""
        shown = [f'"{column}" as {name}' for name, column in renamed.items()]
        words = f"columns read: {', '.join([quoted(sorted({*plain, *named}))] * bool(plain or named) + shown)}"
        return words + (f"; ignored: {quoted(ignored)}" if ignored else "")

    def _renamed(self, row: Fields) -> dict[str, Any]:
        taken = set(self.columns.values())
        others = {} if self.format == "classification" else row
        fields = {name: value for name, value in others.items() if name not in taken and name not in self.columns}
        return fields | {name: row[column] for name, column in self.columns.items() if column in row}

    def _check_label(self, fields: Fields) -> None:
        """All labels of a source are of one kind: 1 and "1" may be two classes or one, and nobody said which."""
        if "label" not in fields or fields["label"] is None:
            return
        kind = kind_of(fields["label"])
        self.label_kind = self.label_kind or kind
        if kind != self.label_kind:
            raise RowFault(f'field "label" is {kind}, and {self.label_kind} in the first row', "E3-ROW-TYPE")

    def _in_words_of_the_file(self, fault: RowFault) -> RowFault:
        reason = fault.reason
        for name, column in self.columns.items():
            if name != column:
                reason = reason.replace(f'"{name}"', f'"{name}" (column "{column}")')
        return RowFault(reason, fault.code, fault.found)


def find_layout(source: Source | Validation, rows: Sequence[Fields]) -> Layout:
    """Decide from the first rows of a source how all of it is read.

    Raises DataError when the columns fit no format or several, and for a column that no row has.
    """
    if not rows:
        return Layout(source.format, dict(source.columns))
    _check_columns(source, rows)
    common = Counter(frozenset(row) for row in rows).most_common(1)[0][0]
    columns = (common - set(source.columns.values())) | source.columns.keys()
    name = source.format if source.format != "auto" else detect(columns, str(source.path))
    chosen = dict(source.columns)
    if name == "classification":
        chosen = _of_classification(source, columns)
    return Layout(name, {key: value for key, value in chosen.items() if key in FORMATS[name].FIELDS})


def _of_classification(source: Source | Validation, columns: frozenset[str]) -> dict[str, str]:
    try:
        found = classification.columns_of(columns)
    except RowFault as fault:
        fix = "say which: columns: {label: ...}"
        raise DataError(fault.reason, where=str(source.path), fix=fix, code=fault.code) from None
    return {"text": "text", "label": "label"} | {
        name: source.columns.get(column, column) for name, column in found.items()
    }


def _check_columns(source: Source | Validation, rows: Sequence[Fields]) -> None:
    known = sorted({column for row in rows for column in row})
    for name, column in source.columns.items():
        if column not in known:
            fix = did_you_mean(nearest(column, known)) or f"the columns are {quoted(known)}"
            what = f'no row has the column "{column}", which columns names for {name}'
            raise DataError(what, where=str(source.path), fix=fix, code="E3-COLUMNS")
