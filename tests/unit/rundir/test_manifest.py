"""The manifest says what the run was made of, and nothing that is nobody's business."""

import json
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest

import lorafit
from lorafit.errors import ResumeRefused, StorageError
from lorafit.rundir import checkpoints, journal
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.manifest import ACCOUNT, Manifest, environment, hash_files, read_manifest, source_hash
from lorafit.rundir.result import read_result
from rundir.runs import begin

MODEL = {"path": "builtin:tiny", "files": {"model.safetensors": {"bytes": 7, "sha256": "9f"}}}
DATA = {"files": {"train.jsonl": "c1"}, "rows": 1000, "target_tokens": 5000}


def manifest(**changes: object) -> Manifest:
    facts = {"model": MODEL, "data": DATA, "device": {"name": "cpu"}} | changes
    return Manifest("hash", 42, **facts)  # type: ignore[arg-type]


def test_it_holds_what_makes_the_run_again(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        manifest().write(run)
        written = read_manifest(run.folder)
    assert written["run_id"] == run.state.run_id
    assert (written["recipe_hash"], written["seed"]) == ("hash", 42)
    assert (written["model"], written["data"], written["device"]) == (MODEL, DATA, {"name": "cpu"})
    assert written["lorafit"] == {"version": lorafit.__version__, "source_sha256": source_hash()}
    assert written["environment"]["packages"]["numpy"] == version("numpy")
    assert [event["event"] for event in written["history"]] == ["created"]


def test_it_is_written_again_with_what_happened_since(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        checkpoints.save(run, 10, lambda folder: None, {})
    with begin(tmp_path / "run", "resume") as run:
        journal.record_event(run, "out_of_memory", {"micro_batch_size": 4})
        manifest().write(run)
        history = read_manifest(run.folder)["history"]
    assert [event["event"] for event in history] == ["created", "running", "resumed", "out_of_memory"]
    assert history[3]["micro_batch_size"] == 4


def test_only_listed_variables_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    monkeypatch.setenv("NCCL_ALGO_SECRET", "canary")
    told = environment()
    assert "canary" not in json.dumps(told)
    assert told["variables"]["OMP_NUM_THREADS"] == "3"  # type: ignore[index]


def test_the_packages_have_one_hash() -> None:
    first, second = environment(), environment()
    assert first == second
    assert len(str(first["packages_sha256"])) == 64


def test_unchanged_inputs_may_go_on(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        assert manifest().check_resume(run) == []
        manifest().write(run)
        assert manifest().check_resume(run) == []


def test_the_account_of_the_rows_decides_nothing(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        manifest().write(run)
        assert manifest(data=DATA | {ACCOUNT: {"counts": {"read": 3}, "sources": []}}).check_resume(run) == []
        with pytest.raises(ResumeRefused):
            manifest(data=DATA | {ACCOUNT: {}, "accounts": 1}).check_resume(run)


def test_changed_inputs_may_not(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        manifest().write(run)
        changed = DATA | {"files": {"train.jsonl": "d2"}, "rows": 1001}
        with pytest.raises(ResumeRefused) as caught:
            manifest(data=changed, model=MODEL | {"path": "other"}).check_resume(run)
    assert [fault.what for fault in caught.value.faults] == [
        'model.path changed: "builtin:tiny" -> "other"',
        'data.files.train.jsonl changed: "c1" -> "d2"',
        "data.rows changed: 1000 -> 1001",
    ]
    assert caught.value.exit_code == 10


def test_other_surroundings_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCCL_ALGO", raising=False)
    with begin(tmp_path / "run") as run:
        manifest().write(run)
        monkeypatch.setenv("NCCL_ALGO", "Ring")
        noted = manifest(device={"name": "H100"}).check_resume(run)
        assert sorted(noted) == [
            'device.name changed: "cpu" -> "H100"',
            'environment.variables.NCCL_ALGO changed: (not there) -> "Ring"',
        ]
        assert journal.read_events(run.folder)[-1]["changes"] == noted


def test_the_manifest_of_an_earlier_try_does_not_count(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        manifest().write(run)
    with begin(tmp_path / "run") as run:  # nothing was trained: begun anew
        assert manifest(data={"rows": 1}).check_resume(run) == []


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_damaged_manifest_is_an_error_of_storage(tmp_path: Path, text: str) -> None:
    with begin(tmp_path / "run") as run:
        run.folder.manifest.write_text(text)
        with pytest.raises(StorageError, match=r"manifest\.json: is damaged"):
            manifest().check_resume(run)


def test_files_are_hashed_by_pattern_and_through_links(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1").write_bytes(b"weights")
    folder = tmp_path / "snapshot"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").symlink_to(tmp_path / "blobs" / "1")
    for name in ("config.json", "sub/x.json", "readme.md"):
        (folder / name).write_text(name)
    hashed = hash_files(folder, ["*.safetensors", "**/*.json", "*.json"])
    assert list(hashed) == ["config.json", "model.safetensors", "sub/x.json"]
    assert hashed["model.safetensors"] == {"bytes": 7, "sha256": sha256(b"weights").hexdigest()}


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", ["manifest", "result"])
def test_a_damaged_document_is_said_to_be_one(tmp_path: Path, name: str, damage: bytes) -> None:
    folder = RunFolder(tmp_path)
    getattr(folder, name).write_bytes(damage)
    with pytest.raises(StorageError, match="is damaged"):
        (read_manifest if name == "manifest" else read_result)(folder)
