"""Which column is which field: named in the recipe or found, said, and the same for every row."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorafit.data.faults import ReadLog
from lorafit.data.rows import check_rows, read_examples
from lorafit.errors import DataError, RecipeError
from lorafit.recipe.formats import Conversation, Example, Labelled, PlainText
from lorafit.recipe.load import recipe_from
from lorafit.recipe.schema import Recipe, Source


def read(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> tuple[str, list[Example], ReadLog]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    log = ReadLog()
    name, examples = read_examples(Source.model_validate({"path": str(path), **settings}), log)
    return name, [example for _, example in examples], log


def refused(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, rows, **settings)
    return str(caught.value)


def test_columns_say_which_is_which(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a", "id": 3}]
    name, examples, log = read(tmp_path, rows, columns={"prompt": "question", "completion": "answer"})
    assert (name, examples) == ("prompt_completion", [PlainText("q", "a")])
    assert log.notes == ['columns read: "question" as prompt, "answer" as completion; ignored: "id"']


def test_a_column_that_is_named_wins_over_one_of_that_name(tmp_path: Path) -> None:
    rows = [{"prompt": "no", "question": "q", "completion": "a"}]
    _, examples, log = read(tmp_path, rows, columns={"prompt": "question"})
    assert examples == [PlainText("q", "a")]
    assert log.notes == ['columns read: "completion", "question" as prompt; ignored: "prompt"']


def test_columns_may_change_places(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "q"}]
    _, examples, _ = read(tmp_path, rows, columns={"prompt": "completion", "completion": "prompt"})
    assert examples == [PlainText("q", "a")]


def test_named_columns_are_read_as_strictly_and_in_the_words_of_the_file(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"q": "a", "a": "b"}, {"q": 3, "a": "b"}, {"q": None, "a": "b"}, {"a": "b"}]
    _, examples, log = read(tmp_path, rows, columns={"prompt": "q", "completion": "a"})
    assert len(examples) == 1
    assert [row.code for row in log.bad] == ["E3-ROW-TYPE", "E3-ROW-NULL", "E3-ROW-MISSING"]
    assert 'field "prompt" (column "q") is null' in log.bad[1].reason


def test_a_column_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    said = refused(
        tmp_path, [{"question": "q", "answer": "a"}], columns={"prompt": "questions", "completion": "answer"}
    )
    assert 'did you mean "question"?' in said
    assert "E3-COLUMNS" in said


def test_a_field_that_no_format_has_names_the_nearest() -> None:
    text = "version: 1\nmodel: {path: m}\ndata: {train: {path: a.jsonl, %s}}"
    for source, words in (
        ("columns: {prompts: q}", 'no format has such a field; did you mean "prompt"?'),
        ("format: text, columns: {prompt: q}", "the format text has no such field; the fields are text"),
        ("columns: {prompt: 3}", "expected text"),
    ):
        with pytest.raises(RecipeError) as caught:
            recipe_from((text % source).encode(), "recipe.yaml")
        assert words in str(caught.value)


def test_tools_and_system_may_be_named_too(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    _, examples, _ = read(
        tmp_path, [{"chat": talk, "functions": [{"name": "f"}]}], columns={"messages": "chat", "tools": "functions"}
    )
    assert isinstance(examples[0], Conversation)
    assert examples[0].tools == ({"name": "f"},)


@pytest.mark.parametrize(
    ("row", "expected", "note"),
    [
        ({"text": "a", "category": "x"}, Labelled("a", None, "x"), 'columns read: "text", "category" as label'),
        ({"text": "a", "label": 3}, Labelled("a", None, "3"), ""),
        ({"text": "a", "label": True, "intent": "y"}, Labelled("a", None, "true"), 'ignored: "intent"'),
        ({"sentence": "a", "class": "x"}, Labelled("a", None, "x"), '"sentence" as text, "class" as label'),
        ({"sentence1": "a", "sentence2": "b", "label": 0}, Labelled("a", "b", "0"), '"sentence2" as text_pair'),
        ({"premise": "a", "hypothesis": "b", "label": "n"}, Labelled("a", "b", "n"), '"premise" as text'),
        ({"text": "a", "text_pair": "b", "label": "n"}, Labelled("a", "b", "n"), ""),
    ],
)
def test_classification_is_found(tmp_path: Path, row: dict[str, Any], expected: Labelled, note: str) -> None:
    name, examples, log = read(tmp_path, [row])
    assert (name, examples) == ("classification", [expected])
    assert note in "".join(log.notes)


def test_two_columns_that_could_be_the_label_are_a_tie(tmp_path: Path) -> None:
    rows = [{"text": "a", "category": "x", "intent": "y"}]
    assert '"category", "intent" could each be the label' in refused(tmp_path, rows)
    _, examples, _ = read(tmp_path, rows, columns={"label": "intent"})
    assert examples == [Labelled("a", None, "y")]


@pytest.mark.parametrize(
    ("label", "code"),
    [
        (None, "E3-ROW-NULL"),
        (1.5, "E3-ROW-TYPE"),
        (["x"], "E3-ROW-TYPE"),
        ("", "E3-ROW-EMPTY"),
        (1, "E3-ROW-TYPE"),  # the first is text
        (True, "E3-ROW-TYPE"),
        ("x\0", "E3-ROW-NUL"),
    ],
)
def test_labels_are_of_one_kind(tmp_path: Path, label: Any, code: str) -> None:
    _, examples, log = read(tmp_path, [{"text": "a", "label": "x"}, {"text": "b", "label": label}])
    assert len(examples) == 1
    assert [row.code for row in log.bad] == [code]


def test_a_row_whose_label_stands_elsewhere_is_not_guessed_at(tmp_path: Path) -> None:
    _, examples, log = read(tmp_path, [{"text": "a", "category": "x"}] * 2 + [{"text": "a", "label": "x"}])
    assert len(examples) == 2
    assert [row.code for row in log.bad] == ["E3-ROW-MISSING"]


def test_a_column_that_comes_late_is_said_to_be_ignored(tmp_path: Path) -> None:
    _, _, log = read(tmp_path, [{"text": "a"}] * 200 + [{"text": "a", "late": 1}])
    assert log.notes == ['columns read: "text"; ignored: "late"']


def test_preferences_are_read_and_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": None}]
    name, examples, log = read(tmp_path, rows)
    assert (name, len(examples), log.bad_count) == ("preference", 1, 1)
    recipe = Recipe.model_validate(
        {"version": 1, "model": {"path": "m"}, "data": {"train": {"path": str(tmp_path / "rows.jsonl")}}}
    )
    assert [fault.code for fault in check_rows(recipe)] == ["E3-PREFERENCE", "E3-ROW-NULL"]
