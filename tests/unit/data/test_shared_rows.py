"""Every row of the real data beside the checkout is read or reported with its line; skipped where there is none.

The rows are counted again by what Python brings, without any of our code.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lorafit.data.faults import ReadLog
from lorafit.data.rows import read_examples
from lorafit.errors import DataError
from lorafit.recipe.schema import Source

SHARED = Path(os.environ.get("LORAFIT_SHARED", Path(__file__).parents[3].with_name("shared")))
KINDS = ("chat", "classification", "instruct", "preference", "sql", "text", "tools")
FILES = sorted(path for kind in KINDS for path in (SHARED / "data" / kind).glob("*.*") if path.suffix != ".md")

ASKED = {"prompt": "question", "completion": "answer"}
SETTINGS: dict[str, dict[str, Any]] = {
    "gsm8k_train.jsonl": {"columns": ASKED},
    "gsm8k_test.jsonl": {"columns": ASKED},
    "humaneval.jsonl": {"columns": {"completion": "canonical_solution"}},
    "spider_dev.jsonl": {"columns": {"instruction": "question", "input": "context", "output": "sql"}},
    "wikisql_head8000.jsonl": {"columns": {"prompt": "question", "completion": "sql"}},
    "defog_questions_gen_sqlite.csv": {"columns": {"prompt": "question", "completion": "query"}},
    "llamafactory_kto_en_demo.json": {"format": "preference"},
}
# No format reads them: auto says so, and a format by name names every row.
NOT_ROWS = {
    "mt_bench_questions.jsonl": "chat",
    "mt_bench_reference_gpt4.jsonl": "chat",
    "vicuna_questions.jsonl": "chat",
    "self_instruct_seed_tasks.jsonl": "alpaca",
    "self_instruct_user_oriented.jsonl": "alpaca",
}
DETECTED = {
    "banking77_train.csv": ("classification", '"category" as label'),
    "banking77_test.csv": ("classification", '"category" as label'),
    "clinc150_train.jsonl": ("classification", 'ignored: "domain"'),
    "llamafactory_dpo_en_demo.json": ("preference", ""),
    "oasst_en_preference.jsonl": ("preference", ""),
    "bfcl_toolcall_messages.jsonl": ("chat", 'ignored: "id"'),
    "fastchat_dummy_conversation.json": ("chat", 'ignored: "id"'),
    "spider_dev.jsonl": ("alpaca", 'ignored: "db_id"'),
}
BAD = {"banking77_categories.json": 77, "defog_questions_gen_sqlite.csv": 1}  # no objects; broken quoting

pytestmark = pytest.mark.skipif(not FILES, reason=f"no real data at {SHARED.name}/: set LORAFIT_SHARED to its folder")


def rows_in(path: Path) -> int:
    """Count rows without our code."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            return sum(1 for _ in csv.DictReader(stream))
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return len(json.loads(text))
    lines = [line for line in text.split("\n") if line.strip()]
    return sum(1 for line in lines if path.suffix == ".txt" or json.loads(line))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_row_is_read_or_reported(path: Path) -> None:
    settings = {"path": str(path), **SETTINGS.get(path.name, {})}
    log = ReadLog()
    if path.name in NOT_ROWS:
        with pytest.raises(DataError, match="E3-FORMAT") as caught:
            read_examples(Source.model_validate(settings), log)
        assert caught.value.faults[0].where == str(path)
        settings["format"] = NOT_ROWS[path.name]
    name, examples = read_examples(Source.model_validate(settings), log)
    kept = sum(1 for _ in examples)
    assert kept + log.bad_count == rows_in(path)
    assert not log.faults
    assert all(row.where.startswith(f"{path}:") and row.code.startswith("E3-ROW") for row in log.bad)
    if path.name in NOT_ROWS:
        assert kept == 0
        return
    detected, remark = DETECTED.get(path.name, (name, ""))
    assert name == detected
    assert remark in "\n".join(log.notes)
    assert log.bad_count == BAD.get(path.name, 0)
