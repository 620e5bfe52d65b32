"""From files to packs: every row accounted for, everything doubtful stops it, and the same in gives the same out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers_made import CHATML, byte_level, sentence_piece

from lorafit.data.batch import IGNORED, flat_batch
from lorafit.data.prepare import PreparedData, prepare
from lorafit.errors import DataError
from lorafit.recipe.schema import Recipe

TOKENIZER = byte_level(CHATML)


def write(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def chats(count: int) -> list[Any]:
    return [chat(f"what is {n}", "the cat " * (n % 5) + str(n)) for n in range(count)]


def recipe(train: Path | list[dict[str, Any]], seed: int = 0, **data: Any) -> Recipe:
    sources = {"path": str(train)} if isinstance(train, Path) else train
    return Recipe.model_validate(
        {"version": 1, "seed": seed, "model": {"path": "m"}, "data": {"train": sources, **data}}
    )


def prepared(train: Path | list[dict[str, Any]], **settings: Any) -> PreparedData:
    return prepare(recipe(train, **settings), TOKENIZER)


def faults(train: Path | list[dict[str, Any]], **settings: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        prepared(train, **settings)
    return [fault.code for fault in caught.value.faults]


def texts(data: PreparedData) -> list[str]:
    rows = data.train
    return [TOKENIZER.decode(rows.tokens[a:b]) for a, b in zip(rows.starts, rows.starts[1:], strict=False)]


def test_rows_become_tokens_and_packs(tmp_path: Path) -> None:
    data = prepared(write(tmp_path, chats(40)), max_length=256)
    assert len(data.train) == 40
    assert texts(data)[1] == "<|im_start|>user\nwhat is 1<|im_end|>\n<|im_start|>assistant\nthe cat 1<|im_end|>\n"
    assert data.validation is None
    assert len(data.train_packs) < 40
    report = data.report
    assert (report.counts.read, report.counts.kept) == (40, 40)
    assert report.train.tokens == len(data.train.tokens) == report.sources[0].tokens
    assert report.train.target_tokens == data.train.targets.sum() == report.sources[0].target_tokens
    assert sum(report.histogram.values()) == 40
    assert report.sources[0].format == "chat"
    assert report.sources[0].detected
    json.dumps(report.as_json(), allow_nan=False)
    assert "40 of 40 rows, format chat (detected)" in report.as_text()


def test_batches_hold_the_rows(tmp_path: Path) -> None:
    data = prepared(write(tmp_path, chats(10)), packing=False)
    for number in range(10):
        batch = flat_batch(data.train, data.train_packs, np.array([number]))
        assert TOKENIZER.decode(batch.input_ids) == texts(data)[number]
        labels = batch.labels[batch.labels != IGNORED]
        assert TOKENIZER.decode(labels) == "the cat " * (number % 5) + f"{number}<|im_end|>"
        assert data.train.place(number).endswith(f"rows.jsonl:{number + 1}")


def test_the_same_in_gives_the_same_out_and_anything_else_another_name(tmp_path: Path) -> None:
    path = write(tmp_path, chats(30))
    one, same = prepared(path), prepared(path)
    assert one.fingerprint == same.fingerprint
    assert one.train_packs.rows.tolist() == same.train_packs.rows.tolist()
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"max_length": 100},
        {"packing": False},
        {"train_on": "all"},
        {"validation": {"fraction": 0.1}},
    ]
    names = {prepared(path, **change).fingerprint for change in changes}
    names.add(prepared([{"path": str(path), "limit": 29}]).fingerprint)
    names.add(prepare(recipe(path), byte_level(CHATML + "{# #}")).fingerprint)
    names.add(prepare(recipe(path), sentence_piece(CHATML)).fingerprint)
    names.add(prepared(write(tmp_path, chats(31))).fingerprint)
    assert len(names | {one.fingerprint}) == len(changes) + 5


def test_every_fault_of_every_source_at_once(tmp_path: Path) -> None:
    first = write(tmp_path, [*chats(3), '{"messages": 3}', "{", chat("a", " ")], "a.jsonl")
    second = write(tmp_path, [{"question": "a"}], "b.jsonl")
    third = write(tmp_path, [], "c.jsonl")
    sources = [{"path": str(path)} for path in (first, second, third, tmp_path / "d.jsonl")]
    assert faults(sources) == [
        "E3-ROW-TYPE",
        "E3-ROW-JSON",
        "E3-ROW-EMPTY",
        "E3-FORMAT",
        "E3-NO-ROWS",
        "E3-NO-FILE",
    ]


def test_skipped_rows_are_counted_and_listed(tmp_path: Path) -> None:
    path = write(tmp_path, [chat("a", "b"), "{", chat("c", ""), chat("d", "e")])
    data = prepared(path, on_bad_row="skip")
    counts = data.report.counts
    assert (counts.read, counts.kept, counts.bad) == (4, 2, 2)
    assert [(row.where.rpartition(":")[2], row.code) for row in data.report.sources[0].bad_rows] == [
        ("2", "E3-ROW-JSON"),
        ("3", "E3-ROW-EMPTY"),
    ]
    assert [data.train.place(row).rpartition(":")[2] for row in range(2)] == ["1", "4"]
    broken = write(tmp_path, ["{", "{"])
    assert faults(broken, on_bad_row="skip") == ["E3-NO-ROWS"]
    with pytest.raises(DataError, match=r"none of 2 rows is left; .*rows\.jsonl:1: .*2 such rows"):
        prepared(broken, on_bad_row="skip")


@pytest.mark.parametrize(("policy", "kept", "dropped", "truncated"), [("drop", 2, 2, 0), ("truncate", 3, 1, 1)])
def test_overlong_rows(tmp_path: Path, policy: str, kept: int, dropped: int, truncated: int) -> None:
    long_answer, long_question = chat("a", "cat " * 200), chat("cat " * 200, "a")
    path = write(tmp_path, [chat("a", "b"), long_answer, long_question, chat("c", "d")])
    assert faults(path, max_length=64) == ["E3-OVERLONG"]
    data = prepared(path, max_length=64, on_overlong=policy)
    counts = data.report.counts
    assert (counts.read, counts.kept, counts.dropped, counts.truncated) == (4, kept, dropped, truncated)
    assert data.train.lengths.max() <= 64
    assert data.train.row_targets.min() > 0
    assert data.train.unfinished.sum() == truncated


def test_exactly_max_length_is_whole_and_one_more_is_not(tmp_path: Path) -> None:
    path = write(tmp_path, [chat("a", "cat " * 20)])
    length = len(prepared(path).train.tokens)
    whole = prepared(path, max_length=length)
    assert not whole.train.unfinished.any()
    assert whole.train.trained[-2]  # the end of the turn, before its line break
    assert faults(path, max_length=length - 1) == ["E3-OVERLONG"]


def test_a_fraction_is_held_out_and_equal_rows_stay_together(tmp_path: Path) -> None:
    data = prepared(write(tmp_path, chats(50) * 2), validation={"fraction": 0.2})
    assert data.validation is not None
    assert data.validation_packs is not None
    assert len(data.validation) == 20
    assert len(data.train) == 80
    assert not set(data.train.hashes().tolist()) & set(data.validation.hashes().tolist())
    assert data.report.validation is not None
    assert (data.report.train.duplicates, data.report.validation.duplicates) == (40, 10)
    assert faults(write(tmp_path, chats(1)), validation={"fraction": 0.5}) == ["E3-TOO-FEW"]


def test_a_validation_source_must_not_be_trained_on(tmp_path: Path) -> None:
    train = write(tmp_path, chats(10), "train.jsonl")
    other = write(tmp_path, [chat("else", "where")], "other.jsonl")
    data = prepared(train, validation={"path": str(other)})
    assert data.validation is not None
    assert data.report.sources[-1].use == "validation"
    leaking = write(tmp_path, [chat("else", "where"), *chats(2)], "leak.jsonl")
    assert faults(train, validation={"path": str(leaking)}) == ["E3-LEAK"]


def test_weights_repeat_and_thin_out_sources(tmp_path: Path) -> None:
    a = write(tmp_path, [chat(f"a{n}", "b") for n in range(10)], "a.jsonl")
    b = write(tmp_path, [chat(f"b{n}", "b") for n in range(10)], "b.jsonl")
    sources = [{"path": str(a), "weight": 2.0}, {"path": str(b), "weight": 0.5}]
    data = prepared(sources)
    times = np.bincount(data.train_packs.rows, minlength=20)
    assert times[:10].tolist() == [2] * 10
    assert sorted(times[10:].tolist()) == [0] * 5 + [1] * 5
    split = prepared(sources, validation={"fraction": 0.25})
    assert len(split.train) == 15
    assert set(np.bincount(split.train_packs.rows, minlength=15).tolist()) <= {0, 1, 2}


def test_the_limit_takes_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path, chats(10))
    data = prepared([{"path": str(path), "limit": 3}])
    assert [data.train.place(row).rpartition(":")[2] for row in range(len(data.train))] == ["1", "2", "3"]


def test_remarks(tmp_path: Path) -> None:
    path = write(tmp_path, [chat("say </s>", "a"), chat("b", "\nc")])
    notes = prepared(path).report.sources[0].notes
    assert any(note.startswith("1 rows: a token would have joined") for note in notes)
    assert any(note.startswith("1 rows hold a special token") for note in notes)
    two = write(tmp_path, chats(2))
    assert not prepared(two).report.sources[0].notes
    assert not prepared(two, train_on="all").report.sources[0].notes
    words = prepare(recipe(two), byte_level(CHATML.replace("<|im_end|>", "<|done|>")))
    assert any("generation cannot stop" in note for note in words.report.sources[0].notes)
    dated = prepare(recipe(two), byte_level("{{ strftime_now('%Y') }}" + CHATML))
    assert any("writes the date" in note for note in dated.report.notes)


def test_templates_that_do_not_fit_are_no_bad_rows(tmp_path: Path) -> None:
    path = write(tmp_path, chats(3))
    for skip in ("error", "skip"):
        with pytest.raises(DataError, match="cannot be masked exactly") as caught:
            prepare(recipe(path, on_bad_row=skip), byte_level(CHATML.replace("<|im_end|>", "")))
        assert [fault.code for fault in caught.value.faults] == ["E3-TEMPLATE"]
    with pytest.raises(DataError, match="has no chat template"):
        prepare(recipe(path), byte_level())


def test_plain_text_needs_no_template(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "a cat :", "completion": " yes"}, {"prompt": "b", "completion": " no"}])
    data = prepare(recipe(path), byte_level())
    assert texts(data) == ["a cat : yes</s>", "b no</s>"]
    assert TOKENIZER.decode(data.train.tokens[data.train.trained]) == " yes</s> no</s>"


def test_one_row_and_equal_rows(tmp_path: Path) -> None:
    assert len(prepared(write(tmp_path, chats(1))).train_packs) == 1
    same = prepared(write(tmp_path, [chat("a", "b")] * 5))
    assert same.report.train.duplicates == 4


def test_a_hub_data_set_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="go online once") as caught:
        prepared([{"path": "someone/some-set"}])
    assert [(fault.where, fault.code) for fault in caught.value.faults] == [("someone/some-set", "E3-HUB")]


def test_wrong_columns_do_not_hide_bad_rows(tmp_path: Path) -> None:
    path = write(tmp_path, ["{", {"question": "a"}])
    assert faults(path) == ["E3-ROW-JSON", "E3-FORMAT"]
    assert faults(path, on_bad_row="skip") == ["E3-FORMAT"]
