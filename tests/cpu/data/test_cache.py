"""The cache gives back what was made, or nothing: whatever was edited, killed, damaged or done at once."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers_made import CHATML, byte_level, sentence_piece

from lorafit.data import cache_key, today
from lorafit.data.batch import flat_batch
from lorafit.data.cache import ENTRY, LOCK, Cache, default_cache
from lorafit.data.cache_key import Keys
from lorafit.data.prepare import PreparedData, prepare
from lorafit.errors import DataError, MachineError, ModelError, StorageError
from lorafit.model.tokenizer import load_tokenizer
from lorafit.recipe.schema import Recipe

TOKENIZER = byte_level(CHATML)
DATED = byte_level("{{ strftime_now('%d') }}" + CHATML)
FROM_CACHE = ["data: from the cache"]


def write(path: Path, count: int = 30, word: str = "cat") -> Path:
    asked = [(f"what is {n}", f"the {word} " * (n % 4) + str(n)) for n in range(count)]
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in asked]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(path: Path, seed: int = 0, source: dict[str, Any] | None = None, **data: Any) -> Recipe:
    train = {"path": str(path), **(source or {})}
    return Recipe.model_validate({"version": 1, "seed": seed, "model": {"path": "m"}, "data": {"train": train, **data}})


def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=1)

    monkeypatch.setattr(today, "datetime", Tomorrow)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 2**30)


def entries(cache: Cache) -> list[Path]:
    return sorted(cache.root.glob(f"*/{ENTRY}"))


def same(one: PreparedData, other: PreparedData) -> bool:
    assert one.fingerprint == other.fingerprint
    assert one.report.as_json() == other.report.as_json()
    for a, b in ((one.train, other.train), (one.validation, other.validation)):
        if a is None or b is None:
            assert a is b
            continue
        assert a.tokens.tolist() == b.tokens.tolist()
        assert a.trained.tolist() == b.trained.tolist()
        assert [a.place(row) for row in range(len(a))] == [b.place(row) for row in range(len(b))]
    assert one.train_packs.rows.tolist() == other.train_packs.rows.tolist()
    return True


def test_what_comes_from_the_cache_is_what_was_made(tmp_path: Path, cache: Cache) -> None:
    plan = recipe(write(tmp_path / "rows.jsonl"), validation={"fraction": 0.2})
    afresh, first, second = (prepare(plan, TOKENIZER, use) for use in (None, cache, cache))
    assert (afresh.remarks, first.remarks, second.remarks) == ([], [], FROM_CACHE)
    assert same(afresh, first)
    assert same(afresh, second)


def test_what_only_divides_and_mixes_rows_hits(tmp_path: Path, cache: Cache) -> None:
    path = write(tmp_path / "rows.jsonl")
    prepare(recipe(path), TOKENIZER, cache)
    settings: list[dict[str, Any]] = [
        {"seed": 7},
        {"packing": False},
        {"validation": {"fraction": 0.3}},
        {"source": {"weight": 2.0}},
    ]
    for changed in settings:
        data = prepare(recipe(path, **changed), TOKENIZER, cache)
        assert data.remarks == FROM_CACHE
        assert same(data, prepare(recipe(path, **changed), TOKENIZER))
    assert len(entries(cache)) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"max_length": 100},
        {"train_on": "all"},
        {"train_on": "last_assistant"},
        {"on_overlong": "drop"},
        {"on_bad_row": "skip"},
        {"source": {"limit": 29}},
        {"source": {"format": "chat"}},
    ],
)
def test_a_setting_that_changes_tokens_misses(tmp_path: Path, cache: Cache, changed: dict[str, Any]) -> None:
    path = write(tmp_path / "rows.jsonl")
    prepare(recipe(path), TOKENIZER, cache)
    assert prepare(recipe(path, **changed), TOKENIZER, cache).remarks == []
    assert len(entries(cache)) == 2


def test_every_byte_of_the_data_counts(tmp_path: Path, cache: Cache) -> None:
    path = write(tmp_path / "rows.jsonl")
    prepare(recipe(path), TOKENIZER, cache)
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"what is 3", b"what is 8", 1))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as large, and as old
    edited = prepare(recipe(path), TOKENIZER, cache)
    assert edited.remarks == []
    assert same(edited, prepare(recipe(path), TOKENIZER))


@pytest.mark.parametrize(
    "other",
    [
        lambda: byte_level(CHATML + "{# #}"),
        lambda: sentence_piece(CHATML),
        lambda: _with(lambda tokenizer: tokenizer.add_tokens(["cat"])),
        lambda: _with(lambda tokenizer: setattr(tokenizer, "eos_token", "<|im_end|>")),
    ],
)
def test_another_tokenizer_or_template_misses(tmp_path: Path, cache: Cache, other: Callable[[], Any]) -> None:
    path = write(tmp_path / "rows.jsonl")
    prepare(recipe(path), TOKENIZER, cache)
    assert prepare(recipe(path), other(), cache).remarks == []


def _with(change: Callable[[Any], object]) -> Any:
    tokenizer = byte_level(CHATML)
    change(tokenizer)
    return tokenizer


def test_a_byte_of_a_tokenizers_files_counts(tmp_path: Path, cache: Cache) -> None:
    TOKENIZER.save_pretrained(tmp_path / "model")
    path = write(tmp_path / "rows.jsonl")

    def remarks() -> list[str]:
        return prepare(recipe(path), load_tokenizer(tmp_path / "model"), cache).remarks

    assert (remarks(), remarks()) == ([], FROM_CACHE)
    with (tmp_path / "model" / "tokenizer.json").open("a") as file:
        file.write("\n")
    assert (remarks(), remarks()) == ([], FROM_CACHE)


def test_a_tokenizer_is_named_as_it_was_loaded(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = tmp_path / "model", write(tmp_path / "rows.jsonl")
    TOKENIZER.save_pretrained(model)
    loaded = load_tokenizer(model)
    sentence_piece(CHATML).save_pretrained(model)  # what lies there now is another's
    data = prepare(recipe(path), loaded, cache)
    assert prepare(recipe(path), load_tokenizer(model), cache).remarks == []
    TOKENIZER.save_pretrained(model)
    assert same(prepare(recipe(path), load_tokenizer(model), cache), data)


def test_a_tokenizer_that_changes_while_it_is_loaded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    load = AutoTokenizer.from_pretrained

    def changed(*arguments: Any, **settings: Any) -> Any:
        found = load(*arguments, **settings)
        sentence_piece(CHATML).save_pretrained(tmp_path)
        return found

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", changed)
    with pytest.raises(ModelError, match="changed meanwhile"):
        load_tokenizer(tmp_path)


def test_another_version_of_the_code_misses(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.jsonl")
    prepare(recipe(path), TOKENIZER, cache)
    monkeypatch.setattr(cache_key, "_code_hash", lambda: "another")
    assert prepare(recipe(path), TOKENIZER, cache).remarks == []


def test_another_day_misses_where_the_template_writes_the_date(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.jsonl")
    for tokenizer, expected in ((TOKENIZER, FROM_CACHE), (DATED, [])):
        before = prepare(recipe(path), tokenizer, cache)
        with monkeypatch.context() as patch:
            tomorrow(patch)
            after = prepare(recipe(path), tokenizer, cache)
            assert after.remarks == expected
            assert (after.fingerprint == before.fingerprint) == bool(expected)
            assert same(after, prepare(recipe(path), tokenizer))


@pytest.mark.parametrize("kept", [True, False])
def test_another_day_is_other_data(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    path = write(tmp_path / "rows.jsonl")
    today = prepare(recipe(path), DATED, cache if kept else None)
    assert same(today, prepare(recipe(path), DATED, cache if kept else None))
    tomorrow(monkeypatch)
    assert prepare(recipe(path), DATED, cache if kept else None).fingerprint != today.fingerprint


@pytest.mark.parametrize(
    ("template", "dates"),
    [
        ("no date", []),
        ("{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}", ["03 Feb 2026"]),
        ('{{ strftime_now( "%Y-%m-%d" ) ~ strftime_now("%y") }}', ["2026-02-03", "26"]),
        ("{% set form = '%d' %}{{ strftime_now(form) }}", None),
        ("{{ strftime_now('%d' ~ form) }}", None),
        ("{% set now = strftime_now %}{{ now('%d') }}", None),
        ("{{ strftime_now('%H:%M') }}", None),
        ("{{ strftime_now('%S') }}", None),
        ("{{ strftime_now('%f') }}", None),
        ("{{ strftime_now('%I') }}", None),
        (r"{{ strftime_now('\x25H') }}", None),
    ],
)
def test_what_a_template_writes_is_known_beforehand_or_not_at_all(template: str, dates: list[str] | None) -> None:
    assert cache_key.written_dates(template, datetime(2026, 2, 3, 17, 31, 59)) == dates


@pytest.mark.parametrize("written", ["(['%d'] | first)", "('%d %H')"])
def test_rows_with_a_date_that_cannot_be_foreseen_are_not_kept(tmp_path: Path, cache: Cache, written: str) -> None:
    path = write(tmp_path / "rows.jsonl")
    tokenizer = byte_level("{{ strftime_now" + written + " }}" + CHATML)
    assert prepare(recipe(path), tokenizer, cache).remarks == []
    assert prepare(recipe(path), tokenizer, cache).remarks == []
    assert not entries(cache)


@pytest.mark.parametrize("name", ["tokens.bin", "trained.bin", "rows.bin", "COMMIT.json"])
@pytest.mark.parametrize("damage", ["truncate", "delete", "flip"])
def test_damage_is_found_and_mended(tmp_path: Path, cache: Cache, name: str, damage: str) -> None:
    plan = recipe(write(tmp_path / "rows.jsonl"))
    afresh = prepare(plan, TOKENIZER)
    prepare(plan, TOKENIZER, cache)
    file = entries(cache)[0] / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"truncate": content[:-1], "flip": content}.get(damage, b""))
    if damage == "delete":
        file.unlink()
    if damage == "flip" and name in ("tokens.bin", "trained.bin"):  # these are looked at when they are used
        data = prepare(plan, TOKENIZER, cache)
        with pytest.raises(StorageError, match="are damaged"):
            flat_batch(data.train, data.train_packs, np.arange(len(data.train_packs)))
        return
    mended = prepare(plan, TOKENIZER, cache)
    assert mended.remarks == []
    assert same(mended, afresh)
    assert prepare(plan, TOKENIZER, cache).remarks == FROM_CACHE


def test_rows_with_faults_are_not_kept(tmp_path: Path, cache: Cache) -> None:
    path = write(tmp_path / "rows.jsonl")
    path.write_text(path.read_text() + "{\n")
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            prepare(recipe(path), TOKENIZER, cache)
        assert [fault.code for fault in caught.value.faults] == ["E3-ROW-JSON"]
    assert not entries(cache)
    first, second = (prepare(recipe(path, on_bad_row="skip"), TOKENIZER, cache) for _ in range(2))
    assert second.remarks == FROM_CACHE
    assert same(first, second)
    assert second.report.counts.bad == 1


def test_one_edited_source_of_two_leaves_the_other(tmp_path: Path, cache: Cache) -> None:
    one, two = write(tmp_path / "one.jsonl"), write(tmp_path / "two.jsonl", word="dog")
    plan = recipe(one, train=[{"path": str(one)}, {"path": str(two)}])
    prepare(plan, TOKENIZER, cache)
    write(two, 31, "dog")
    data = prepare(plan, TOKENIZER, cache)
    assert data.remarks == ["data: 1 of 2 sources from the cache"]
    assert same(data, prepare(plan, TOKENIZER))


@pytest.mark.parametrize("blocked", ["root", "parent"])
def test_without_a_place_it_goes_on_and_says_so_once(tmp_path: Path, blocked: str) -> None:
    (tmp_path / "blocked").write_text("a file, where a folder should be")
    cache = Cache(tmp_path / "blocked" / ("data" if blocked == "parent" else ""), 2**30)
    sources = [{"path": str(write(tmp_path / f"{name}.jsonl", word=name))} for name in ("a", "b")]
    data = prepare(recipe(tmp_path, train=sources), TOKENIZER, cache)
    assert len(data.train) == 60
    assert len(data.remarks) == 1
    assert "not kept in the cache" in data.remarks[0]


def test_the_longest_unused_goes_first(tmp_path: Path, cache: Cache) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", word=name) for name in "abc"]
    for age, path in zip((1, 3, 2), paths, strict=True):
        prepare(recipe(path), TOKENIZER, cache)
        newest = max(cache.root.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
        os.utime(newest, (1e9 - age, 1e9 - age))
    one_entry = sum(file.stat().st_size for file in entries(cache)[0].iterdir())
    cache.limit_bytes = int(2.5 * one_entry)
    cache.trim()
    cache.limit_bytes = 2**30
    hits = [prepare(recipe(path), TOKENIZER, cache).remarks == FROM_CACHE for path in paths]
    assert hits == [True, False, True]


def test_what_is_not_ours_is_left_alone(tmp_path: Path, cache: Cache) -> None:
    photos, hashed = cache.root / "photos", cache.root / ("a" * 40)
    for folder in (photos, hashed):
        (folder / ENTRY).mkdir(parents=True)
        (folder / ENTRY / "large.bin").write_bytes(b"x" * 10**6)
    (cache.root / ".trash-0123456789abcdef0123456789abcdef").mkdir()
    (cache.root / "notes").mkdir()
    before = sorted(cache.root.rglob("*"))
    path = write(tmp_path / "rows.jsonl")
    cache.limit_bytes = 10**5  # more than ours, less than theirs
    prepare(recipe(path), TOKENIZER, cache)
    assert prepare(recipe(path), TOKENIZER, cache).remarks == FROM_CACHE
    cache.limit_bytes = 0
    cache.trim()
    assert sorted(cache.root.rglob("*")) == before


def test_a_lock_that_was_tidied_away_meanwhile_is_taken_anew(cache: Cache) -> None:
    key, locked = "a" * 40, []

    def wait() -> None:
        with cache.turn(key):
            locked.append((cache.root / key / LOCK).exists())

    waiting = threading.Thread(target=wait)
    with cache.turn(key):
        waiting.start()
        deadline = time.monotonic() + 2
        while not _waits_for_lock() and time.monotonic() < deadline:
            time.sleep(0.01)
        shutil.rmtree(cache.root / key)
    waiting.join(10)
    assert locked == [True]


def _waits_for_lock() -> bool:
    locks = Path("/proc/locks")
    return locks.exists() and any("->" in line and str(os.getpid()) in line for line in locks.read_text().splitlines())


def written_while_read(path: Path, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Have the file written anew as soon as its key is known, the first `times` times."""
    known, left = Keys.of, [times * 2]

    def edited(keys: Keys, source: Any) -> Any:
        found = known(keys, source)
        left[0] -= 1
        if left[0] >= 0 and left[0] % 2:
            write(path, 31 + left[0])
        return found

    monkeypatch.setattr(Keys, "of", edited)


def test_data_that_changed_before_it_was_read_is_named_as_it_was_read(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.jsonl")
    with monkeypatch.context() as patch:
        written_while_read(path, patch)
        data = prepare(recipe(path), TOKENIZER, cache)
    assert "changed meanwhile" in data.remarks[0]
    assert same(data, prepare(recipe(path), TOKENIZER))
    assert not entries(cache)


def test_data_that_changes_without_a_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.jsonl")
    written_while_read(path, monkeypatch)
    with pytest.raises(DataError) as caught:
        prepare(recipe(path), TOKENIZER)
    assert [(fault.code, fault.where) for fault in caught.value.faults] == [("E3-FILE-CHANGED", str(path))]


def test_a_cache_that_cannot_be_written_is_read(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.jsonl")
    prepare(recipe(path), TOKENIZER, cache)

    def denied(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", denied)
    assert prepare(recipe(path), TOKENIZER, cache).remarks == FROM_CACHE


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"LORAFIT_CACHE": "off"}, None),
        ({"LORAFIT_CACHE": "/c"}, "/c/data"),
        ({"LORAFIT_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/lorafit/data"),
        ({"LORAFIT_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/lorafit/data"),
    ],
)
def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str | None) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = default_cache()
    assert (found and str(found.root)) == folder


SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_cache import CHATML, Cache, byte_level, prepare, recipe
from lorafit.data.row_files import RowWriter
die_after, add, added = {die_after}, RowWriter.add, []
def counting(*args, **settings):
    added.append(1)
    if len(added) == die_after:
        os._exit(9)
    add(*args, **settings)
RowWriter.add = counting
data = prepare(recipe(Path({path!r})), byte_level(CHATML), Cache(Path({root!r}), 2**30))
print(len(added), len(data.train.tokens), data.fingerprint)
"""


def run_apart(path: Path, cache: Cache, die_after: int = -1) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(tests=str(Path(__file__).parent), path=str(path), root=str(cache.root), die_after=die_after)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_a_kill_while_it_is_written_leaves_it_whole(tmp_path: Path, cache: Cache) -> None:
    path = write(tmp_path / "rows.jsonl")
    assert run_apart(path, cache, die_after=20).returncode == 9
    assert not entries(cache)
    assert list(cache.root.glob("*/.tmp-*"))
    data = prepare(recipe(path), TOKENIZER, cache)
    assert data.remarks == []
    assert same(data, prepare(recipe(path), TOKENIZER))
    assert not list(cache.root.glob("*/.tmp-*"))
    assert prepare(recipe(path), TOKENIZER, cache).remarks == FROM_CACHE


def test_of_processes_at_once_one_does_the_work(tmp_path: Path, cache: Cache) -> None:
    path = write(tmp_path / "rows.jsonl", 300)
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda _: run_apart(path, cache), range(2)))
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    (added, *result), (added_by_other, *other) = (end.stdout.split() for end in ends)
    assert sorted([int(added), int(added_by_other)]) == [0, 300]
    assert result == other
    assert len(entries(cache)) == 1


def test_the_home_of_nobody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFIT_CACHE", "~no-such-user/cache")
    with pytest.raises(MachineError, match=r"no-such-user.*E5-CACHE-FOLDER"):
        default_cache()


@pytest.mark.parametrize("size", ["abc", "-1", "nan", "inf", "1e9"])
def test_a_size_that_is_none_is_named(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFIT_CACHE_GIB", size)
    monkeypatch.setenv("LORAFIT_CACHE", "somewhere")
    with pytest.raises(MachineError, match="LORAFIT_CACHE_GIB"):
        default_cache()
