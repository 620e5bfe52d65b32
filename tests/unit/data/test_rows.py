"""Files as people have them: every row is read, or named with its line and what is wrong with it."""

import csv
import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.data import lines, unpack
from lorafit.data.faults import ReadLog
from lorafit.data.rows import check_rows, read_rows
from lorafit.errors import DataError
from lorafit.recipe.schema import Recipe, Source, Validation

GOOD = b'{"text": "a"}\n'


def read(path: Path, **settings: object) -> tuple[list[tuple[int, dict[str, object]]], ReadLog]:
    log = ReadLog()
    source = Source.model_validate({"path": str(path), **settings})
    return [(row.line, row.fields) for row in read_rows(source, log)], log


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


LINES = [
    ("invalid UTF-8 first", b'{"text": "\xff"}\n' + GOOD, [(1, "E3-ROW-UTF8")], [2]),
    ("invalid UTF-8 last", GOOD + b'{"text": "\xe9"}', [(2, "E3-ROW-UTF8")], [1]),
    ("cut last line", GOOD + b'{"text": "a', [(2, "E3-ROW-CUT")], [1]),
    ("broken last line", GOOD + b'{"text": "a\n', [(2, "E3-ROW-JSON")], [1]),
    ("trailing comma", GOOD + b'{"text": "a",}\n' + GOOD, [(2, "E3-ROW-JSON")], [1, 3]),
    ("single quotes", b"{'text': 'a'}\n" + GOOD, [(1, "E3-ROW-JSON")], [2]),
    ("scalar", GOOD + b"3\n", [(2, "E3-ROW-TYPE")], [1]),
    ("list line", GOOD + b"[1, 2]\n", [(2, "E3-ROW-TYPE")], [1]),
    ("list line first", b"[1, 2]\n" + GOOD, [(1, "E3-ROW-TYPE")], [2]),
    ("empty object", GOOD + b"{}\n", [(2, "E3-ROW-EMPTY")], [1]),
    ("duplicate key", GOOD + b'{"text": "a", "text": "b"}\n', [(2, "E3-ROW-DUPLICATE-KEY")], [1]),
    ("NaN", GOOD + b'{"text": NaN}\n', [(2, "E3-ROW-NAN")], [1]),
    ("lone surrogate", GOOD + b'{"text": "\\ud800"}\n', [(2, "E3-ROW-SURROGATE")], [1]),
    ("deep", GOOD + b"[" * 2000 + b"\n" + GOOD, [(2, "E3-ROW-DEPTH")], [1, 3]),
    ("empty lines", b"\n\n" + GOOD + b"\n  \n" + GOOD, [], [3, 6]),
    ("CRLF", b'{"text": "a"}\r\n\r\n{"text": "b"}\r\n', [], [1, 3]),
    ("byte order mark", lines.BOM + GOOD, [], [1]),
    ("no newline at the end", GOOD + b'{"text": "b"}', [], [1, 2]),
]


@pytest.mark.parametrize(("data", "bad", "good"), [row[1:] for row in LINES], ids=[row[0] for row in LINES])
def test_lines(tmp_path: Path, data: bytes, bad: list[tuple[int, str]], good: list[int]) -> None:
    path = written(tmp_path, "rows.jsonl", data)
    rows, log = read(path)
    assert [line for line, _ in rows] == good
    assert [(row.where, row.code) for row in log.bad] == [(f"{path}:{line}", code) for line, code in bad]
    assert not log.faults


WHOLE = [
    ("UTF-16", "rows.jsonl", '{"text": "a"}'.encode("utf-16"), "E3-FILE-ENCODING"),
    ("UTF-16 without its mark", "rows.jsonl", '{"text": "a"}'.encode("utf-16-be"), "E3-FILE-ENCODING"),
    ("HTML", "rows.jsonl", b"\n<!DOCTYPE html><html>404</html>", "E3-FILE-HTML"),
    ("broken array", "rows.json", b'[{"text": "a"},\n {"text": }]', "E3-FILE-JSON"),
    ("comma at the end of an array", "rows.json", b'[{"text": "a"},\n]', "E3-FILE-JSON"),
    ("array without a comma", "rows.json", b'[{"text": "a"} {"text": "b"}]', "E3-FILE-JSON"),
    ("array cut off", "rows.json", b'[{"text": "a"},', "E3-FILE-JSON"),
    ("array cut off in a row", "rows.json", b'[{"text": "a"}, {"te', "E3-FILE-JSON"),
    ("more after the array", "rows.json", b'[{"text": "a"}] 3', "E3-FILE-JSON"),
    ("array in another encoding", "rows.json", b'[{"text": "\xff"}]', "E3-FILE-ENCODING"),
    ("columns named twice", "rows.csv", b"text,text\na,b\n", "E3-FILE-COLUMNS"),
    ("columns set apart by semicolons", "rows.csv", b"prompt;completion\nhi;there\n", "E3-FILE-COLUMNS"),
    ("columns set apart by commas", "rows.tsv", b"prompt,completion\nhi,there\n", "E3-FILE-COLUMNS"),
    ("unknown kind", "rows.xlsx", b"a", "E3-FILE-KIND"),
    ("cut gzip", "rows.jsonl.gz", gzip.compress(GOOD * 100)[:-20], "E3-FILE-DAMAGED"),
    ("broken parquet", "rows.parquet", b"PAR1 and nothing", "E3-FILE-DAMAGED"),
    ("broken arrow", "rows.arrow", b"nothing", "E3-FILE-DAMAGED"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "code"), [row[1:] for row in WHOLE], ids=[row[0] for row in WHOLE])
def test_files_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, code: str) -> None:
    path = written(tmp_path, name, data)
    _, log = read(path)
    assert [(fault.where, fault.code) for fault in log.faults] == [(str(path), code)]


def test_arrays_keep_their_lines_and_go_on_after_a_bad_row(tmp_path: Path) -> None:
    first = b'\n[\n {"text": "a"}, {"text": "b"},\n {"text": "c",\n  "text": "d"}, 3,\n '
    data = first + b'{"text": "\\ud800"}, {"text": "e"}]\n'
    path = written(tmp_path, "rows.json", data)
    rows, log = read(path)
    assert rows == [(3, {"text": "a"}), (3, {"text": "b"}), (6, {"text": "e"})]
    assert [(row.where.rpartition(":")[2], row.code) for row in log.bad] == [
        ("4", "E3-ROW-DUPLICATE-KEY"),
        ("5", "E3-ROW-TYPE"),
        ("6", "E3-ROW-SURROGATE"),
    ]


@given(st.lists(st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.none(), min_size=1)), st.booleans())
def test_an_array_and_lines_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], indent: bool
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    array = json.dumps(rows, indent=1 if indent else None).encode()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    from_array, _ = read(written(folder, "rows.json", array))
    from_lines, _ = read(written(folder, "rows.jsonl", lines))
    assert [row for _, row in from_array] == [row for _, row in from_lines] == rows


def test_a_json_file_may_hold_lines_or_one_object(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.json", GOOD * 2))[0] == [(1, {"text": "a"}), (2, {"text": "a"})]
    assert read(written(tmp_path, "b.json", b'\n{\n "text": "a"\n}'))[0] == [(2, {"text": "a"})]
    assert read(written(tmp_path, "c.jsonl", b'[{"text": "a"}]\n'))[0] == [(1, {"text": "a"})]


def test_long_lines_are_named_and_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 50)
    rows, log = read(written(tmp_path, "rows.jsonl", GOOD + b'{"text": "' + b"a" * 500 + b'"}\n' + GOOD))
    assert [line for line, _ in rows] == [1, 3]
    assert [row.code for row in log.bad] == ["E3-ROW-LONG"]


def test_tables(tmp_path: Path) -> None:
    data = lines.BOM + b'prompt,completion\n1,"a\nb"\n2\n3,\xff\n4,"c""d"\n'
    rows, log = read(written(tmp_path, "rows.csv", data))
    assert rows == [(2, {"prompt": "1", "completion": "a\nb"}), (6, {"prompt": "4", "completion": 'c"d'})]
    assert [(row.where.rpartition(":")[2], row.code) for row in log.bad] == [
        ("4", "E3-ROW-COLUMNS"),
        ("5", "E3-ROW-UTF8"),
    ]
    assert read(written(tmp_path, "rows.tsv", b"text\tid\na,b\t1\n"))[0] == [(2, {"text": "a,b", "id": "1"})]
    _, log = read(written(tmp_path, "open.csv", b'text\n"a\n'))
    assert [row.code for row in log.bad] == ["E3-ROW-CSV"]


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1)))
def test_csv_as_python_writes_it(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows([["text", "id"], *([text, "x"] for text in texts)])
    assert [fields["text"] for _, fields in read(path)[0]] == texts


def test_text_lines(tmp_path: Path) -> None:
    rows, log = read(written(tmp_path, "rows.txt", b"a \r\n\n\xff\nb"))
    assert rows == [(1, {"text": "a "}), (4, {"text": "b"})]
    assert [row.code for row in log.bad] == ["E3-ROW-UTF8"]


def test_a_file_that_is_written_while_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", GOOD * 3)
    log = ReadLog()
    rows = read_rows(Source(path=str(path)), log)
    assert next(rows).line == 1
    written(tmp_path, "rows.jsonl", GOOD * 5)
    assert len(list(rows)) >= 2
    assert [fault.code for fault in log.faults] == ["E3-FILE-CHANGED"]


def test_packed_files_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    assert read(written(tmp_path, "rows.jsonl", gzip.compress(GOOD)))[0] == [(1, {"text": "a"})]
    assert read(written(tmp_path, "rows.jsonl.gz", gzip.compress(GOOD)))[0] == [(1, {"text": "a"})]
    zstd = pyarrow.compress(GOOD, codec="zstd", asbytes=True)
    assert read(written(tmp_path, "rows.jsonl.zst", zstd))[0] == [(1, {"text": "a"})]
    with zipfile.ZipFile(tmp_path / "zip.jsonl", "w") as archive:
        archive.writestr("rows.jsonl", GOOD)
    assert [fault.fix for fault in read(tmp_path / "zip.jsonl")[1].faults] == ["unpack it"]


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "UNPACKED_FREE", 10_000)
    path = written(tmp_path, "rows.jsonl", gzip.compress(b"\n" * 10_000_000))
    assert [fault.code for fault in read(path)[1].faults] == ["E3-FILE-BOMB"]


def test_parquet_and_arrow(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": ["a", None], "n": [1, 2]})
    expected = [(1, {"text": "a", "n": 1}), (2, {"text": None, "n": 2})]
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet")[0] == expected
    for name, new in (("file.arrow", pyarrow.ipc.new_file), ("stream.arrow", pyarrow.ipc.new_stream)):
        with new(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
        assert read(tmp_path / name)[0] == expected


def test_a_folder_gives_its_splits(tmp_path: Path) -> None:
    for name in ("train.jsonl", "validation-00000-of-00001.jsonl", "README.md", ".hidden.jsonl"):
        written(tmp_path, name, json.dumps({"text": name}).encode())
    assert [fields["text"] for _, fields in read(tmp_path)[0]] == ["train.jsonl"]
    assert [f["text"] for _, f in read(tmp_path, split="validation")[0]] == ["validation-00000-of-00001.jsonl"]
    with pytest.raises(DataError, match=r'no split .*"train", "validation"'):
        read(tmp_path, split="test")


def test_a_folder_without_splits_gives_all_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("b.jsonl", "a.jsonl", "inner/c.jsonl"):
        written(tmp_path, name, json.dumps({"text": name}).encode())
    assert [fields["text"] for _, fields in read(tmp_path)[0]] == ["a.jsonl", "b.jsonl", "inner/c.jsonl"]
    with pytest.raises(DataError, match="E3-SPLIT"):
        read(tmp_path, split="validation")


def test_paths_that_mean_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path / "no" / "such" / "folder"):
        with pytest.raises(DataError, match="E3-NO-FILE"):
            read(path)
    with pytest.raises(DataError, match="E3-NO-FILE"):
        read(tmp_path)
    with pytest.raises(DataError, match="E3-SPLIT"):
        read(written(tmp_path, "rows.jsonl", GOOD), split="validation")
    with pytest.raises(DataError, match="E3-NO-FILE"):
        read(Path("/dev/null"))


def test_a_glob_and_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "a1.jsonl", GOOD * 2)
    written(tmp_path, "a2.jsonl", GOOD * 2)
    monkeypatch.chdir(tmp_path)
    assert len(read(Path("a*.jsonl"))[0]) == 4
    assert len(read(Path("a*.jsonl"), limit=3)[0]) == 3


def test_reading_without_a_log_raises_everything_at_the_end(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", GOOD + b"3\n4\nnull\n{\n" + GOOD)
    source = Source(path=str(path))
    rows = []
    with pytest.raises(DataError) as caught:
        rows.extend(read_rows(source))
    assert len(rows) == 2
    assert [fault.code for fault in caught.value.faults] == ["E3-ROW-TYPE", "E3-ROW-TYPE", "E3-ROW-JSON"]
    assert "2 such rows; first 2: rows.jsonl:2, rows.jsonl:3" in str(caught.value)


def recipe(train: Path, validation: dict[str, object] | None = None, **data: object) -> Recipe:
    settings = {"train": {"path": str(train)}, "validation": validation, **data}
    return Recipe.model_validate({"version": 1, "model": {"path": "m"}, "data": settings})


def test_check_rows_gathers_all_sources(tmp_path: Path) -> None:
    train = written(tmp_path, "train.jsonl", GOOD + b'{"text": 3}\n{"text": null}\n')
    empty = written(tmp_path, "empty.jsonl", b"")
    faults = check_rows(recipe(train, {"path": str(empty)}))
    assert [(fault.where, fault.code) for fault in faults] == [
        (f"{train}:2", "E3-ROW-TYPE"),
        (f"{train}:3", "E3-ROW-NULL"),
        (str(empty), "E3-NO-ROWS"),
    ]
    assert not check_rows(recipe(train, on_bad_row="skip"))
    assert not check_rows(recipe(Path("someone/some-set")))
    assert check_rows(recipe(tmp_path / "none.jsonl"))[0].code == "E3-NO-FILE"


def test_nothing_left_after_skipping_is_no_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", b'{"text": 3}\n')
    assert [fault.code for fault in check_rows(recipe(path, on_bad_row="skip"))] == ["E3-NO-ROWS"]


def test_only_newlines_are_no_rows(tmp_path: Path) -> None:
    assert check_rows(recipe(written(tmp_path, "rows.jsonl", b"\n\n\n")))[0].code == "E3-NO-ROWS"


def test_a_type_that_changes_late_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", GOOD * 3000 + b'{"text": 5}\n')
    assert [fault.where for fault in check_rows(recipe(path))] == [f"{path}:3001"]


def test_built_in_rows_hold() -> None:
    source = Source(path="builtin:sql")
    assert sum(1 for _ in read_rows(source)) >= 1000
    held_out = Validation(path="builtin:sql")
    assert all("setup_sql" in row.fields for row in read_rows(held_out))


def test_reading_rows_loads_nothing_heavy(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", GOOD)
    code = (
        "import sys; from lorafit.data.rows import read_rows; from lorafit.recipe.schema import Source; "
        f"assert list(read_rows(Source(path={str(path)!r}))); "
        "print(sorted({'numpy', 'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>404</p>", b"<html>\n", b'<?xml version="1.0"?>'])
def test_a_page_is_no_table(page: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(page)
    log = ReadLog()
    assert not list(read_rows(Source(path=str(path)), log))
    assert [fault.code for fault in log.faults] == ["E3-FILE-HTML"]
