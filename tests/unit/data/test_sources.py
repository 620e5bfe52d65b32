"""The same rows from every kind of file and place: equal to what was written, with as little held as may be."""

import csv
import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorafit.data import json_files, remote
from lorafit.data.faults import ReadLog
from lorafit.data.rows import check_rows, local_files, read_rows
from lorafit.errors import DataError, LorafitError, MachineError
from lorafit.recipe.schema import Recipe, Source

GOOD = b'{"text": "a"}\n'
Row = dict[str, Any]


def read(path: str | Path, **more: Any) -> tuple[list[Row], ReadLog]:
    log = ReadLog()
    rows = read_rows(Source.model_validate({"path": str(path), **more}), log)
    return [row.fields for row in rows], log


def jsonl(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def zstd(data: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    return bytes(pyarrow.compress(data, codec="zstd", asbytes=True))


def table(rows: list[Row]) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def parquet(rows: list[Row]) -> bytes:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stream = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), stream, row_group_size=7)
    return stream.getvalue()


def arrow(rows: list[Row]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    stream, whole = io.BytesIO(), pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_file(stream, whole.schema) as writer:
        writer.write_table(whole)
    return stream.getvalue()


WRITERS: dict[str, Callable[[list[Row]], bytes]] = {
    "rows.jsonl": jsonl,
    "rows.json": lambda rows: json.dumps(rows).encode(),
    "indented.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "rows.csv": table,
    "rows.parquet": parquet,
    "rows.arrow": arrow,
    "rows.jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    "rows.jsonl.zst": lambda rows: zstd(jsonl(rows)),
    "rows.csv.gz": lambda rows: gzip.compress(table(rows)),
}
# what csv can say: text, in rows that are not empty; a lone carriage return is a line break to it
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=20)
ROWS = st.lists(st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT}), min_size=1, max_size=20)


@pytest.mark.parametrize("name", WRITERS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(rows=ROWS)
def test_what_is_written_is_read_back(tmp_path: Path, name: str, rows: list[Row]) -> None:
    path = tmp_path / name
    path.write_bytes(WRITERS[name](rows))
    found, log = read(path)
    assert found == rows
    assert not log.bad
    assert not log.faults


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
FILLED = st.dictionaries(st.text(max_size=3), VALUES, min_size=1, max_size=4)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=st.lists(FILLED, min_size=1, max_size=8), indent=st.sampled_from([None, 1]), chunk=st.integers(1, 40))
def test_arrays_are_the_same_however_they_are_cut(
    tmp_path: Path, rows: list[Row], indent: int | None, chunk: int
) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(json.dumps(rows, ensure_ascii=False, indent=indent).encode(errors="surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "CHUNK_BYTES", chunk)
        found, log = read(path)
    assert found == rows
    assert not log.bad


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.arrow", "rows.jsonl.gz"])
def test_of_a_large_file_little_is_held(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(WRITERS[name]([{"prompt": f"{n} " * 100, "completion": "b"} for n in range(20_000)]))
    tracemalloc.start()
    count = sum(1 for _ in read_rows(Source(path=str(path))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 6 * 2**20  # the rows are some 12 MB


def test_a_text_that_is_no_utf8_is_one_bad_row_of_a_table(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = pyarrow.array([b"a", b"\xff", b"c"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "rows.parquet")
    rows, log = read(tmp_path / "rows.parquet")
    assert rows == [{"text": "a"}, {"text": "c"}]
    assert [(row.code, row.place[1]) for row in log.bad] == [("E3-ROW-UTF8", 2)]


def test_patterns_reach_down_and_stand_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for name in ("train-1.jsonl", "a/train-2.jsonl", "a/b/train-3.jsonl", "a/b/test-1.jsonl", "a/.train-4.jsonl"):
        (tmp_path / name).write_bytes(json.dumps({"text": name}).encode())
    assert [row["text"] for row in read(tmp_path / "**/train-*.jsonl")[0]] == [
        "a/b/train-3.jsonl",
        "a/train-2.jsonl",
        "train-1.jsonl",
    ]
    assert len(read(tmp_path / "a/b/*.jsonl")[0]) == 2
    assert len(read(tmp_path / "a/b/*.jsonl", split="test")[0]) == 1
    for none in ("*.csv", "a**b/*.jsonl"):
        with pytest.raises(DataError, match="E3-NO-FILE"):
            read(tmp_path / none)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'text,id\n"a,b', "E3-ROW-CSV"),
        (b'text,"id\na,b\n', "E3-FILE-COLUMNS"),
        (b"\xfftext,id\na,b\n", "E3-FILE-ENCODING"),
        (b"text,id\n" + b"a" * (17 * 2**20) + b",b\n", "E3-FILE-LONG"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, data: bytes, code: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(data)
    _, log = read(path)
    assert [one.code for one in [*log.bad, *log.faults]] == [code]


@pytest.fixture
def memory() -> Iterator[Any]:
    """Give fsspec's file system in memory, empty."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.mark.parametrize("name", WRITERS)
def test_rows_behind_a_url(memory: Any, name: str) -> None:
    rows = [{"prompt": f"{n}", "completion": "b"} for n in range(3000)]
    memory.pipe(f"/data/{name}", WRITERS[name](rows))
    found, log = read(f"memory://data/{name}")
    assert found == rows
    assert not log.faults


def test_folders_patterns_and_splits_behind_a_url(memory: Any) -> None:
    for name in ("train.jsonl", "test.jsonl", "notes.md"):
        memory.pipe(f"/data/{name}", json.dumps({"text": name}).encode())
    assert read("memory://data")[0] == [{"text": "train.jsonl"}]
    assert read("memory://data", split="test")[0] == [{"text": "test.jsonl"}]
    assert len(read("memory://data/*.jsonl")[0]) == 2
    for url, code in (
        ("memory://none.jsonl", "E3-NO-FILE"),
        ("memory://data/*.csv", "E3-NO-FILE"),
        ("nonsense://a.jsonl", "E3-NO-FILE"),
    ):
        with pytest.raises(DataError, match=code):
            read(url)
    with pytest.raises(DataError, match="E3-SPLIT"):
        read("memory://data/train.jsonl", split="test")


def test_a_bad_row_behind_a_url_names_its_place(memory: Any) -> None:
    memory.pipe("/rows.jsonl", GOOD + b"{\n")
    _, log = read("memory://rows.jsonl")
    assert [row.where for row in log.bad] == ["memory://rows.jsonl:2"]


def test_a_file_behind_a_url_that_fails_or_changes(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/rows.jsonl", GOOD * 100)
    log = ReadLog()
    rows = read_rows(Source(path="memory://rows.jsonl"), log)
    next(rows)
    memory.pipe("/rows.jsonl", GOOD * 5)
    list(rows)
    assert [fault.code for fault in log.faults] == ["E3-FILE-CHANGED"]

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such bucket\nand more")

    monkeypatch.setattr(type(memory), "size", fail)
    with pytest.raises(DataError, match=r"no such bucket; .*E3-FILE-READ"):
        read("memory://rows.jsonl")


def test_a_protocol_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MachineError, match=r"Install s3fs .*E5-NO-FSSPEC"):
        read("s3://bucket/rows.jsonl")


def test_a_web_address_is_one_file_whatever_its_query(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Web:
        """Stands for fsspec's file system of the web, which names a file by its whole address."""

        def exists(self, place: str) -> bool:
            asked.append(place)
            return "none" not in place

        def size(self, place: str) -> None:  # a server need not say
            asked.append(place)

        def open(self, place: str, mode: str) -> io.BytesIO:
            asked.append(place)
            return io.BytesIO(GOOD)

        def invalidate_cache(self) -> None: ...

        def ukey(self, place: str) -> str:
            return place

    monkeypatch.setattr(remote, "_system", lambda url: (Web(), url))
    url = "https://example.org/a/rows.jsonl?download=true"
    assert read(url)[0] == [{"text": "a"}]
    assert set(asked) == {url}
    with pytest.raises(DataError, match="E3-NO-FILE"):
        read("https://example.org/none.jsonl")


def test_a_file_url_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "some rows.jsonl"
    path.write_bytes(GOOD)
    source = Source(path=path.as_uri())
    assert local_files(source) == [path]
    assert read(path.as_uri())[0] == [{"text": "a"}]


class Hub(ModuleType):
    """Stands for the package datasets."""

    def __init__(self, rows: Callable[[], Iterator[Any]], *, offline: bool) -> None:
        super().__init__("datasets")
        self.asked: dict[str, Any] = {}
        self.rows = rows
        self.config = SimpleNamespace(HF_HUB_OFFLINE=offline)

    def load_dataset(self, name: str, **asked: Any) -> Iterator[Any]:
        self.asked = {"name": name, **asked}
        return self.rows()


@pytest.mark.parametrize("offline", [False, True])
def test_hub_data_sets_are_streamed_where_they_can_be(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    made = 0

    def endless() -> Iterator[Row]:
        nonlocal made
        while True:
            made += 1
            yield {"text": f"{made}"}

    hub = Hub(endless, offline=offline)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    found, log = read("someone/some-set", limit=3)
    assert found == [{"text": "1"}, {"text": "2"}, {"text": "3"}]
    assert made == 3
    assert hub.asked == {"name": "someone/some-set", "split": "train", "streaming": not offline}
    assert any("writes null for a field" in note for note in log.notes)


def test_a_hub_that_fails_amid_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking() -> Iterator[Row]:
        yield {"text": "a"}
        raise RuntimeError("connection lost\nwith a long story")

    monkeypatch.setitem(sys.modules, "datasets", Hub(breaking, offline=False))
    with pytest.raises(LorafitError, match=r"connection lost; .*E3-HUB"):
        read("someone/some-set")


def test_what_does_not_lie_here_is_not_looked_at_before_the_run(memory: Any) -> None:
    recipe = Recipe.model_validate(
        {"version": 1, "model": {"path": "m"}, "data": {"train": {"path": "memory://none.jsonl"}}}
    )
    assert not check_rows(recipe)
