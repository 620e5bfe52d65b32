"""Whatever happens to the disk, the old state or the new one is there, whole."""

import errno
import json
import os
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.errors import StorageError
from lorafit.rundir.commit import check_sizes, encode
from lorafit.rundir.store import Store, is_leftover, read_commit, verify_folder
from rundir.faulty_disk import FailingDisk, QuickDisk, crash_everywhere, fail_everywhere

QUICK = Store(QuickDisk())
DISK_ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO]
Fill = Callable[[Path], None]


def filling(marker: str) -> Fill:
    def fill(folder: Path) -> None:
        (folder / "adapter.safetensors").write_bytes(marker.encode() * 50)
        (folder / "empty").touch()
        (folder / "inner").mkdir()
        (folder / "inner" / "state.json").write_text(json.dumps({"marker": marker}))

    return fill


def marker_of(folder: Path) -> str:
    """Verify a folder that `filling` made, and tell whose it is."""
    marker = str(verify_folder(folder).facts["marker"])
    assert (folder / "adapter.safetensors").read_bytes() == marker.encode() * 50
    return marker


def commit(target: Path, marker: str, store: Store = QUICK, *, replace: bool = False) -> None:
    store.commit_folder(target, filling(marker), {"marker": marker}, replace=replace)


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if is_leftover(path)]


# ---------------------------------------------------------------- power cuts


@pytest.mark.parametrize("before", [None, {"was": "old"}])
def test_a_file_survives_a_power_cut_at_any_moment(tmp_path: Path, before: object) -> None:
    def prepare(root: Path) -> None:
        if before:
            QUICK.write_json(root / "run.json", before)

    def check(root: Path) -> None:
        path = root / "run.json"
        found = json.loads(path.read_bytes()) if path.exists() else None
        assert found in (before, {"is": "new"})
        QUICK.sweep(root)
        assert leftovers(root) == []

    points = crash_everywhere(
        tmp_path, prepare, lambda root, store: store.write_json(root / "run.json", {"is": "new"}), check
    )
    assert points == 4


def test_a_finished_write_survives_a_power_cut(tmp_path: Path) -> None:
    def act(root: Path, store: Store) -> None:
        store.write_json(root / "a" / "b" / "run.json", {"is": "new"})
        store.append_line(root / "log", {"line": 1})
        store.sync(root / "log")
        store.append_line(root / "log", {"line": 2})
        store.write_bytes(root / "marks" / "done", b"")

    def check(root: Path) -> None:
        if (root / "marks" / "done").exists():  # so all before it was
            assert json.loads((root / "a" / "b" / "run.json").read_bytes()) == {"is": "new"}
            assert (root / "log").read_text().startswith('{"line": 1}\n')

    assert crash_everywhere(tmp_path, lambda root: (root / "marks").mkdir(), act, check) > 10


def test_a_new_folder_survives_a_power_cut_at_any_moment(tmp_path: Path) -> None:
    def check(root: Path) -> None:
        assert marker_of(root / "step-1") == "first"
        if (root / "step-2").exists():
            assert marker_of(root / "step-2") == "second"
        QUICK.sweep(root)
        assert leftovers(root) == []

    points = crash_everywhere(
        tmp_path,
        lambda root: commit(root / "step-1", "first"),
        lambda root, store: commit(root / "step-2", "second", store),
        check,
    )
    assert points >= 10


def test_a_replaced_folder_survives_a_power_cut_at_any_moment(tmp_path: Path) -> None:
    seen = set()

    def check(root: Path) -> None:
        QUICK.sweep(root)
        seen.add(marker_of(root / "adapter"))
        assert leftovers(root) == []

    crash_everywhere(
        tmp_path,
        lambda root: commit(root / "adapter", "old"),
        lambda root, store: commit(root / "adapter", "new", store, replace=True),
        check,
    )
    assert seen == {"old", "new"}


def test_a_removed_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def check(root: Path) -> None:
        QUICK.sweep(root)
        if (root / "adapter").exists():
            assert marker_of(root / "adapter") == "old"
        assert leftovers(root) == []

    crash_everywhere(
        tmp_path,
        lambda root: commit(root / "adapter", "old"),
        lambda root, store: store.remove(root / "adapter"),
        check,
    )


# ---------------------------------------------------------------- failing disks


@pytest.mark.parametrize("number", DISK_ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("stays", [False, True], ids=["once", "for good"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, number: int, stays: bool) -> None:
    def check(root: Path, disk: FailingDisk, error: StorageError) -> None:
        assert "run.json: cannot be written" in str(error)
        assert os.strerror(number) in str(error)
        assert " free there, " in str(error)
        renamed = disk.steps[disk.at].startswith("fsync") and not disk.steps[disk.at].startswith("fsync .tmp")
        assert json.loads((root / "run.json").read_bytes()) == ({"is": "new"} if renamed else {"was": "old"})
        assert stays or leftovers(root) == []

    points = fail_everywhere(
        tmp_path,
        number,
        lambda root: QUICK.write_json(root / "run.json", {"was": "old"}),
        lambda root, store: store.write_json(root / "run.json", {"is": "new"}),
        check,
        stays=stays,
    )
    assert points == 4


@pytest.mark.parametrize("number", DISK_ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("stays", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("replace", [False, True], ids=["new", "replace"])
def test_a_failed_commit_leaves_the_old_folder(tmp_path: Path, number: int, stays: bool, replace: bool) -> None:
    target = "old" if replace else "new"

    def check(root: Path, disk: FailingDisk, error: StorageError) -> None:
        assert error.exit_code == 7
        published = f"rename {target}" in disk.steps[: disk.at]
        if stays:
            QUICK.sweep(root)
        assert marker_of(root / "old") == ("new" if replace and published else "old")
        if published:
            assert marker_of(root / target) == "new"
        else:
            assert leftovers(root) == []

    fail_everywhere(
        tmp_path,
        number,
        lambda root: commit(root / "old", "old"),
        lambda root, store: commit(root / target, "new", store, replace=replace),
        check,
        stays=stays,
    )


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_names_is_put_up_with(tmp_path: Path, number: int) -> None:
    class NoFolderSync(QuickDisk):
        def fsync(self, path: Path) -> None:
            if path.is_dir():
                raise OSError(number, os.strerror(number))

    commit(tmp_path / "adapter", "new", Store(NoFolderSync()))
    assert marker_of(tmp_path / "adapter") == "new"


def test_a_file_that_cannot_be_synced_is_not_put_up_with(tmp_path: Path) -> None:
    class NoFileSync(QuickDisk):
        def fsync(self, path: Path) -> None:
            if path.is_file():
                raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    with pytest.raises(StorageError):
        commit(tmp_path / "adapter", "new", Store(NoFileSync()))
    assert list(tmp_path.iterdir()) == []


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill_too_much(folder: Path) -> None:
    (folder / "big").write_bytes(bytes(3000))


def test_the_system_really_fails_a_write(tmp_path: Path) -> None:
    store = Store()
    commit(tmp_path / "adapter", "old", store)
    with largest_file(2000), pytest.raises(StorageError, match="E7-LIMIT"):
        store.commit_folder(tmp_path / "adapter", fill_too_much, {}, replace=True)
    with largest_file(2000), pytest.raises(StorageError, match="E7-LIMIT"):
        store.write_bytes(tmp_path / "metrics.jsonl", bytes(3000))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert marker_of(tmp_path / "adapter") == "old"


class RustLibraryError(Exception):
    """As safetensors words it: the number stands only in the text."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RustLibraryError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fails_under_a_library_is_recognised(tmp_path: Path, error: Exception) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise error

    with pytest.raises(StorageError, match=r"adapter: cannot be written: No space .*\[E7-NOSPACE\]"):
        QUICK.commit_folder(tmp_path / "adapter", fill, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "x"), KeyboardInterrupt()])
def test_other_errors_of_fill_pass_through(tmp_path: Path, error: BaseException) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)) as caught:
        QUICK.commit_folder(tmp_path / "adapter", fill, {})
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_what_would_not_fit_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"not enough space; .* free there, 1048576.0 GiB needed"):
        QUICK.commit_folder(tmp_path / "adapter", pytest.fail, {}, expected_bytes=2**50)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(StorageError, match="E7-PATH"):
        QUICK.write_json(tmp_path / "runs" / "a" / "run.json", {})


# ---------------------------------------------------------------- commits


def test_a_commit_tells_what_was_committed(tmp_path: Path) -> None:
    made = QUICK.commit_folder(tmp_path / "step-1", filling("x"), {"step": 1, "loss": 0.5, "chain": None})
    assert made == verify_folder(tmp_path / "step-1") == read_commit(tmp_path / "step-1")
    assert made.facts == {"step": 1, "loss": 0.5, "chain": None}
    assert [(file.name, file.bytes) for file in made.files] == [
        ("adapter.safetensors", 50),
        ("empty", 0),
        ("inner/state.json", 15),
    ]
    assert made.size_bytes == 65


def test_the_commit_is_the_same_for_the_same_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        QUICK.commit_folder(tmp_path / name / "adapter", filling("x"), {"recipe": "9f"})
    assert (tmp_path / "a/adapter/COMMIT.json").read_bytes() == (tmp_path / "b/adapter/COMMIT.json").read_bytes()


@pytest.mark.parametrize("there", ["commit", "folder", "file", "dangling link"])
def test_what_is_there_is_not_overwritten(tmp_path: Path, there: str) -> None:
    target = tmp_path / "adapter"
    if there == "commit":
        commit(target, "old")
    elif there == "folder":
        target.mkdir()
    elif there == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="is already there"):
        QUICK.commit_folder(target, pytest.fail, {})
    commit(target, "new", replace=True)
    assert marker_of(target) == "new"
    assert leftovers(tmp_path) == []


def test_replacing_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    commit(tmp_path / "elsewhere", "old")
    (tmp_path / "adapter").symlink_to(tmp_path / "elsewhere")
    commit(tmp_path / "adapter", "new", replace=True)
    assert marker_of(tmp_path / "elsewhere") == "old"


def test_a_sweep_takes_only_what_this_module_named(tmp_path: Path) -> None:
    mine = [".tmp-notes", ".trash-", f".tmp-{'g' * 32}", f"tmp-{'0' * 32}", f".tmp-{'0' * 32}.txt", "step-1"]
    for name in mine:
        (tmp_path / name).mkdir()
    for name in (f".tmp-{'0' * 32}", f".trash-{'a' * 32}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    assert len(QUICK.sweep(tmp_path)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(mine)
    assert QUICK.sweep(tmp_path / "not there") == []


# ---------------------------------------------------------------- damage


def damaged_files(folder: Path) -> list[str]:
    """Verify, and give the faults that were found."""
    with pytest.raises(StorageError) as caught:
        verify_folder(folder)
    assert all(fault.code == "E7-DAMAGED" and str(folder) in fault.where for fault in caught.value.faults)
    return [fault.what for fault in caught.value.faults]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    QUICK.commit_folder(target, filling("x"), {"run_id": "r", "step": 120, "loss": 1.5e-05, "text": "Zoë\n"})
    dice = random.Random(1)
    bits = [(path, bit) for path in files_of(target) for bit in range(8 * path.stat().st_size)]
    for path, bit in dice.sample(bits, 1000):
        flip(path, bit)
        (fault,) = damaged_files(target)
        assert fault.startswith(path.relative_to(target).as_posix())
        flip(path, bit)
    assert verify_folder(target)


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        old = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([old ^ 1 << bit % 8]))


@pytest.mark.parametrize("name", ["adapter.safetensors", "inner/state.json", "COMMIT.json"])
def test_every_truncation_is_found(tmp_path: Path, name: str) -> None:
    commit(tmp_path / "step-1", "x")
    size_bytes = (tmp_path / "step-1" / name).stat().st_size
    for kept in reversed(range(size_bytes)):
        os.truncate(tmp_path / "step-1" / name, kept)
        assert damaged_files(tmp_path / "step-1")[0].startswith(name)


def test_all_damage_is_named_at_once(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    commit(target, "x")
    (target / "adapter.safetensors").write_bytes(b"y" * 50)
    (target / "empty").unlink()
    (target / "inner" / "state.json").write_bytes(b"")
    (target / "extra.bin").touch()
    assert damaged_files(target) == [
        "adapter.safetensors has other content than was committed",
        "empty is missing",
        "extra.bin was not there when it was committed",
        "inner/state.json has 0 bytes, was committed with 15",
    ]


def test_a_sync_is_asked_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    store = Store()
    store.write_bytes(tmp_path / "a", b"a")
    assert synced == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]
    commit(tmp_path / "step-1", "x", store)
    made = {path.stat().st_ino for path in (tmp_path / "step-1").rglob("*")}
    assert made | {(tmp_path / "step-1").stat().st_ino} <= set(synced)


def test_links_and_folders_do_not_stand_for_files(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    commit(target, "x")
    (target / "empty").rename(tmp_path / "empty")
    (target / "empty").symlink_to(tmp_path / "empty")
    assert damaged_files(target) == ["empty is not a plain file"]
    (target / "empty").unlink()
    (target / "empty").mkdir()
    assert damaged_files(target) == ["empty is missing"]


def test_no_commit_is_no_commit(tmp_path: Path) -> None:
    assert damaged_files(tmp_path / "nowhere") == ["COMMIT.json is missing"]
    (tmp_path / "COMMIT.json").mkdir()
    assert damaged_files(tmp_path) == ["COMMIT.json cannot be read: Is a directory"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"1" * 5000,
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * (16 * 2**20 + 1),
        encode({"format": 1, "name": "../x", "facts": {}, "files": [], "sha256": "0"}),
        encode({"format": 1, "name": 1, "facts": {}, "files": {}, "sha256": "0"}),
    ],
)
def test_strange_commits_are_damage(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "COMMIT.json").write_bytes(text)
    assert damaged_files(tmp_path)[0].startswith("COMMIT.json is damaged")


def forge(folder: Path, document: dict[str, object]) -> None:
    """Write a COMMIT.json whose own hash is right."""
    import hashlib

    digest = hashlib.sha256(encode(document)).hexdigest()
    (folder / "COMMIT.json").write_bytes(encode(document | {"sha256": digest}))


GOOD: dict[str, object] = {"format": 1, "name": "x", "facts": {}, "files": []}
OUTSIDE = {"name": "../secret", "bytes": 6, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"format": 2}, "COMMIT.json is damaged: its format, 2, belongs to another version of lorafit"),
        ({"name": "../x"}, "COMMIT.json is damaged: its name is a path"),
        ({"name": ".."}, "COMMIT.json is damaged: its name is a path"),
        ({"name": 7}, "COMMIT.json is damaged"),
        ({"files": 7}, "COMMIT.json is damaged"),
        ({"files": [{"name": "x"}]}, "COMMIT.json is damaged"),
        ({"facts": 7}, "COMMIT.json is damaged"),
        ({"files": [OUTSIDE]}, "../secret is missing"),
    ],
)
def test_a_forged_commit_reaches_nothing_outside(tmp_path: Path, change: dict[str, object], fault: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "step-1"
    folder.mkdir()
    forge(folder, GOOD)
    assert verify_folder(folder).facts == {}
    forge(folder, GOOD | change)
    assert damaged_files(folder)[0].startswith(fault)


def test_sizes_are_checked_without_reading(tmp_path: Path) -> None:
    commit(tmp_path / "step-1", "x")
    (tmp_path / "step-1" / "adapter.safetensors").write_bytes(b"y" * 50)
    assert check_sizes(tmp_path / "step-1").facts == {"marker": "x"}
    (tmp_path / "step-1" / "adapter.safetensors").write_bytes(b"y" * 49)
    with pytest.raises(StorageError, match="has 49 bytes, was committed with 50"):
        check_sizes(tmp_path / "step-1")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(facts=st.dictionaries(st.text(), json_values, max_size=4))
def test_any_facts_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, object]) -> None:
    target = tmp_path_factory.mktemp("facts") / "step-1"
    assert QUICK.commit_folder(target, lambda folder: None, facts).facts == facts
    assert verify_folder(target).facts == facts
