"""Rows of each layout on their way to tokens: given ones stay as they are, named columns change nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers_made import CHATML, byte_level

from lorafit.data.prepare import PreparedData, prepare
from lorafit.errors import DataError
from lorafit.recipe.schema import Recipe

TOKENIZER = byte_level(CHATML)


def lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def written(folder: Path, rows: Sequence[dict[str, Any]], name: str = "rows.jsonl") -> str:
    (folder / name).write_bytes(lines(rows))
    return str(folder / name)


def prepared(source: dict[str, Any], **data: Any) -> PreparedData:
    data = {"train": source, **data}
    return prepare(Recipe.model_validate({"version": 1, "model": {"path": "m"}, "data": data}), TOKENIZER)


def test_tokens_are_trained_as_given(tmp_path: Path) -> None:
    rows = [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
        {"input_ids": [7, 8, 9, 4], "labels": [7, -100, -100, 4], "attention_mask": [1, 1, 1, 1]},
    ]
    data = prepared({"path": written(tmp_path, rows)})
    assert data.train.tokens.tolist() == [5, 6, 7, 7, 8, 9, 4]
    assert data.train.trained.tolist() == [False, True, True, True, False, False, True]
    assert data.train.row_targets.tolist() == [2, 1]  # the first token of a row has nothing before it
    assert data.report.sources[0].format == "tokens"


def test_given_tokens_are_cut_and_dropped_like_others(tmp_path: Path) -> None:
    rows = [
        {"input_ids": [5] * 20, "labels": [-100] * 4 + [5] * 16},
        {"input_ids": [6] * 20, "labels": [-100] * 19 + [6]},
    ]
    counts = prepared({"path": written(tmp_path, rows)}, max_length=10, on_overlong="truncate").report.counts
    assert (counts.read, counts.kept, counts.dropped, counts.truncated) == (2, 1, 1, 1)


def test_named_columns_give_the_same_tokens(tmp_path: Path) -> None:
    plain = written(tmp_path, [{"prompt": f"a{n}", "completion": f"b{n}"} for n in range(9)])
    other = written(tmp_path, [{"question": f"a{n}", "answer": f"b{n}"} for n in range(9)], "other.jsonl")
    one = prepared({"path": plain})
    two = prepared({"path": other, "columns": {"prompt": "question", "completion": "answer"}})
    assert np.array_equal(one.train.tokens, two.train.tokens)
    assert np.array_equal(one.train.trained, two.train.trained)
    assert one.fingerprint != two.fingerprint


def test_a_url_gives_the_same_tokens(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    rows = [{"prompt": f"a{n}", "completion": f"b{n}"} for n in range(9)]
    system = fsspec.filesystem("memory")
    system.pipe("/rows.jsonl", lines(rows))
    one, two = prepared({"path": written(tmp_path, rows)}), prepared({"path": "memory://rows.jsonl"})
    assert np.array_equal(one.train.tokens, two.train.tokens)
    assert two.train.place(3) == "memory://rows.jsonl:4"
    system.pipe("/rows.jsonl", lines(rows[:8]))
    assert len(prepared({"path": "memory://rows.jsonl"}).train) == 8
    system.rm("/rows.jsonl")


def test_preferences_are_counted_and_not_trained(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": 3, "rejected": "c"}]
    path = written(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        prepared({"path": path})
    assert {fault.code for fault in caught.value.faults} == {"E3-PREFERENCE", "E3-ROW-TYPE"}
    assert (
        len(prepared({"path": path, "columns": {"completion": "rejected"}, "format": "prompt_completion"}).train) == 2
    )
