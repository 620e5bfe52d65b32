"""How many classes an estimate takes: those of the rows, wherever rows with a class can be read."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorafit.data.class_count import count_classes
from lorafit.recipe.schema import Recipe

CLASSED = [{"text": f"text {n}", "label": "abc"[n % 3]} for n in range(7)]
BROKEN = '{"text": "x", "label": "y"}\n{"text": \n'


def count(*sources: dict[str, Any], classification: str = "head") -> int:
    data = {"train": list(sources), "classification": classification}
    return count_classes(Recipe.model_validate({"version": 1, "model": {"path": "8b"}, "data": data}))


def rows(path: Path, found: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("given", ["auto", "classification"])
def test_the_classes_of_all_rows_count(given: str, tmp_path: Path) -> None:
    one = {"path": rows(tmp_path / "one.jsonl", CLASSED), "format": given}
    other = {"path": rows(tmp_path / "other.jsonl", [{"sentence": "x", "intent": "d"}]), "format": given}
    assert count(one) == 3
    assert count(one, other) == 4
    assert count(one, classification="words") == 0


def test_rows_that_cannot_be_read_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text(BROKEN)
    texts = {"path": rows(tmp_path / "texts.jsonl", [{"text": "x"}])}
    assert [count(source) for source in (texts, {"path": "absent.jsonl"}, {"path": "owner/name"})] == [0, 0, 0]
    assert count({"path": "absent.jsonl", "format": "classification"}) == 2
    assert count({"path": str(tmp_path / "broken.jsonl")}) == 2
    assert count_classes(None) == 0
