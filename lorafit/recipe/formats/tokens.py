"""Tokens made elsewhere, taken as they are: ids, and which of them are trained."""

from collections.abc import Set as AbstractSet
from typing import Any, Final

from lorafit.recipe.formats.fields import kind_of, quoted, shortened
from lorafit.recipe.formats.rows import Fields, RowFault, TokenSequence

NEEDS: Final = '"input_ids", "labels"'
FIELDS: Final = ("input_ids", "labels", "attention_mask")
UNTRAINED: Final = -100


def fits(columns: AbstractSet[str]) -> bool:
    """Say whether a row with these columns holds tokens."""
    return {"input_ids", "labels"} <= columns


def parse(fields: Fields) -> TokenSequence:
    """Read the ids and labels of a row; RowFault when they cannot be trained as they are."""
    ids, labels = _integers(fields, "input_ids"), _integers(fields, "labels")
    if len(labels) != len(ids):
        raise RowFault(
            '"input_ids" and "labels" differ in length', "E3-ROW-LABELS", f"{len(ids):,} and {len(labels):,}"
        )
    if min(ids) < 0:
        raise RowFault('"input_ids" holds a negative number', "E3-ROW-VOCABULARY", str(min(ids)))
    _check_labels(ids, labels)
    if "attention_mask" in fields and set(_integers(fields, "attention_mask")) != {1}:
        raise RowFault('"attention_mask" holds other than ones: leave padding out', "E3-ROW-LABELS")
    if "attention_mask" in fields and len(fields["attention_mask"]) != len(ids):
        raise RowFault('"input_ids" and "attention_mask" differ in length', "E3-ROW-LABELS")
    return TokenSequence(tuple(ids), tuple(labels))


def _check_labels(ids: list[int], labels: list[int]) -> None:
    """Each label is the id at its place or -100, and one beyond the first is trained."""
    for place, (own, label) in enumerate(zip(ids, labels, strict=True)):
        if label not in (own, UNTRAINED):
            found = f"{label} where the id is {own}, at {place}"
            raise RowFault("a label is neither -100 nor the id at its own place", "E3-ROW-LABELS", found)
    if all(label == UNTRAINED for label in labels[1:]):
        raise RowFault("no token of the row is trained", "E3-ROW-NO-TARGET")


def _integers(fields: Fields, name: str) -> list[int]:
    if name not in fields:
        raise RowFault(f'field "{name}" is missing', "E3-ROW-MISSING", f"the fields are {quoted(fields)}")
    value: Any = fields[name]
    if value is None:
        raise RowFault(f'field "{name}" is null', "E3-ROW-NULL")
    if not isinstance(value, list):
        raise RowFault(f'field "{name}" is {kind_of(value)}, expected a list of integers', "E3-ROW-TYPE")
    if not value:
        raise RowFault(f'field "{name}" is empty', "E3-ROW-EMPTY")
    if set(map(type, value)) != {int}:
        other = next(item for item in value if type(item) is not int)
        raise RowFault(f'field "{name}" holds other than integers', "E3-ROW-TYPE", shortened(repr(other)))
    return value
