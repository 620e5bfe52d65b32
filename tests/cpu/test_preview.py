"""What preview shows is what is trained: the same tokens and labels as in the batches of a run."""

import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import chat_rows, write_recipe, write_rows
from rich.text import Text

from lorafit.cli import main
from lorafit.data.batch import FlatBatch, flat_batch
from lorafit.errors import DataError
from lorafit.recipe.load import LoadedRecipe, load_recipe
from lorafit.report.preview import look
from lorafit.report.preview_text import lines, show
from lorafit.rundir.layout import RunFolder
from lorafit.train import course, loop
from lorafit.train.start import start
from scripts.record_golden import GOLDEN, preview

ALL = 10**6
COUNTS = ["read", "kept", "dropped", "truncated", "bad"]
Row = tuple[tuple[int, ...], tuple[int, ...]]


def documents(batch: FlatBatch) -> list[Row]:
    """Cut a batch at the borders of its documents."""
    cuts = np.cumsum(batch.lengths)[:-1]
    parts = zip(np.split(batch.input_ids, cuts), np.split(batch.labels, cuts), strict=True)
    return [(tuple(ids.tolist()), tuple(labels.tolist())) for ids, labels in parts]


def consumed(loaded: LoadedRecipe, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Counter[Row]:
    """Train one epoch for real, and gather every document of every batch that a step took."""
    taken: Counter[Row] = Counter()

    def watched(*arguments: Any) -> FlatBatch:
        batch = flat_batch(*arguments)
        taken.update(documents(batch))
        return batch

    monkeypatch.setattr(loop, "flat_batch", watched)
    monkeypatch.setattr(course, "rehearse", lambda *_: None)  # takes a pass of the epoch one time more
    start(loaded, folder / "run", "new")
    return taken


def previewed(loaded: LoadedRecipe) -> Counter[Row]:
    """Gather the rows of a preview, each as often as an epoch trains on it."""
    shown: Counter[Row] = Counter()
    for row in look(loaded.recipe, ALL).as_json()["rows"]:  # type: ignore[attr-defined]
        shown[tuple(row["input_ids"]), tuple(row["labels"])] += len(row["packs"])
    return shown


ONE_EPOCH = {
    "training__max_steps": None,
    "training__epochs": 1,
    "training__global_batch_size": 5,
    "training__micro_batch_size": 3,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"data__packing": False},
        {"data__packing": True},
        {"data__packing": True, "data__train_on": "all"},
        {"data__packing": True, "data__max_length": 32, "data__on_overlong": "truncate"},
        {"data__packing": True, "data__max_length": 32, "data__on_overlong": "drop"},
        {"data__packing": True, "data__validation": {"fraction": 0.25}},
    ],
    ids=str,
)
def test_preview_shows_the_labels_of_the_training_batches(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    loaded = write_recipe(tmp_path, tiny_model, **ONE_EPOCH, **changes)
    shown = previewed(loaded)
    assert shown == consumed(loaded, monkeypatch, tmp_path)
    assert sum(shown.values()) > 5
    assert all(any(label != -100 for label in labels) for _, labels in shown)


def test_a_row_that_is_trained_twice_is_shown_once_with_both_packs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [
        {"path": str(write_rows(tmp_path / "a.jsonl", chat_rows(6))), "weight": 2.0},
        {"path": str(write_rows(tmp_path / "b.jsonl", chat_rows(8, 50))), "weight": 0.5},
    ]
    loaded = write_recipe(tmp_path, tiny_model, data__train=sources, data__packing=True, **ONE_EPOCH)
    shares = look(loaded.recipe, 0).mix()
    assert [(Path(share.path).name, share.rows) for share in shares] == [("a.jsonl", 12), ("b.jsonl", 4)]
    shown = previewed(loaded)
    lines_of_b = {row.source.rpartition(":")[2] for row in look(loaded.recipe, ALL).rows() if "b.jsonl" in row.source}
    (left_out, *_) = sorted(set("12345678") - lines_of_b)
    with pytest.raises(DataError, match="the weight of its source leaves the row out"):
        look(loaded.recipe, 1, f"b.jsonl:{left_out}")
    assert sum(share.tokens for share in shares) == sum(len(ids) * times for (ids, _), times in shown.items())
    assert sorted(shown.values()) == [1] * 4 + [2] * 6
    assert shown == consumed(loaded, monkeypatch, tmp_path)


def test_the_preview_of_the_built_in_data_is_the_one_on_record() -> None:
    recorded = (GOLDEN / "preview.txt").read_text(encoding="utf-8")
    assert preview() == recorded, "python -m scripts.record_golden preview.txt, and say why"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lorafit", "preview", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})


def called(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Run the command in this process: its exit code, and what stands on standard output."""
    monkeypatch.setattr(sys, "argv", ["lorafit", "preview", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), capsys.readouterr().out


def test_json_is_one_object_with_the_keys_of_the_contract(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model)
    done = run(str(loaded.path), "-n", "2", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert list(answer["counts"]) == COUNTS
    assert answer["counts"] == {"read": 32, "kept": 32, "dropped": 0, "truncated": 0, "bad": 0}
    assert [row["source"] for row in answer["rows"]] == [f"{tmp_path}/train.jsonl:{line}" for line in (1, 2)]
    first = answer["rows"][0]
    assert first["text"] == "<s><|user|>twice 0<|end|><|assistant|>0<|end|>"
    assert len(first["input_ids"]) == len(first["labels"])
    trained = [(n, label) for n, label in enumerate(first["labels"]) if label != -100]
    assert [label for _, label in trained] == first["input_ids"][-2:]  # "0" and the end, at their own places
    assert answer["report"]["fingerprint"] == look(loaded.recipe, 0).report.fingerprint


def test_the_process_has_no_torch(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model)
    program = (
        "import sys\nfrom lorafit.cli import main\nsys.argv[0] = 'lorafit'\ntry:\n    main()\nfinally:\n"
        "    print(sys.modules.get('torch'), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "preview", str(loaded.path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "None\n")
    assert "24 rows in 24 packs" in done.stdout


@pytest.mark.parametrize(("asked", "shown"), [("0", 0), ("3", 3), ("1000", 24)])
def test_so_many_rows_as_asked(
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    shown: int,
) -> None:
    loaded = write_recipe(tmp_path, tiny_model)
    code, out = called(capsys, monkeypatch, str(loaded.path), "-n", asked)
    assert code == 0
    assert out.count("⟦trained⟧") == (shown > 0)
    assert out.count(" tokens, 2 trained (") + out.count(" tokens, 3 trained (") == shown
    assert "32 rows read: 32 kept (0 of them truncated), 0 dropped, 0 bad" in out


def test_bad_rows_fail_as_in_training_and_are_listed_when_skipped(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = write_recipe(tmp_path, tiny_model)
    rows: list[Any] = [*chat_rows(3), {"messages": None}, {"messages": [{"role": "user", "content": "\x1b[31m"}]}]
    write_rows(tmp_path / "train.jsonl", rows)
    code, out = called(capsys, monkeypatch, str(loaded.path), "--json")
    faults = json.loads(out)["error"]["faults"]
    with pytest.raises(DataError) as trained:
        start(loaded, tmp_path / "run", "new")
    assert code == 3
    assert [fault["what"] for fault in faults] == [fault.what for fault in trained.value.faults]
    assert [fault["where"].rpartition(":")[2] for fault in faults] == ["4", "5"]
    code, out = called(capsys, monkeypatch, str(loaded.path), "--set", "data.on_bad_row=skip")
    assert code == 0
    assert "2 bad" in out
    assert "train.jsonl:4: " in out
    assert "train.jsonl:5: " in out


def test_the_manifest_tells_what_became_of_every_row(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"data__on_bad_row": "skip", "data__on_overlong": "drop", "data__max_length": 28, "data__packing": True}
    loaded = write_recipe(tmp_path, tiny_model, **changes, training__max_steps=1)
    rows: list[Any] = [*chat_rows(4), chat_rows(1)[0], {"messages": None}, {"messages": 3}, {"messages": []}]
    write_rows(tmp_path / "train.jsonl", rows)
    start(loaded, tmp_path / "run", "new")
    data = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]
    account = data["account"]
    counts = account["counts"]
    assert counts["read"] == 16 == counts["kept"] + counts["dropped"] + counts["bad"]
    assert counts["bad"] == 3 == sum(account["bad_rows"].values())
    assert counts["dropped"] > 0
    assert account["overlap"] == 0
    assert account["train"]["duplicates"] == 1
    assert account["train"]["rows"] == sum(account["histogram"].values())
    assert [source["use"] for source in account["sources"]] == ["train", "validation"]
    assert sum(source["target_tokens"] for source in account["sources"]) == (
        account["train"]["target_tokens"] + account["validation"]["target_tokens"]
    )
    report = json.loads(RunFolder(tmp_path / "run").data_report.read_text())
    assert report["overlap"] == 0
    assert start(loaded, tmp_path / "run", "resume")["status"] == "finished"


def test_one_row_by_its_place(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model)
    for place in ("train.jsonl:7", f"{tmp_path}/train.jsonl:7"):
        assert [row.source for row in look(loaded.recipe, 3, place).rows()] == [f"{tmp_path}/train.jsonl:7"]
    for place, reason in (("validation.jsonl:1", "held out"), ("train.jsonl:99", "no trained row")):
        with pytest.raises(DataError, match=reason):
            look(loaded.recipe, 3, place)


def odd(tmp_path: Path, tiny_model: Path, *texts: str) -> LoadedRecipe:
    """A recipe whose rows answer with these texts."""
    loaded = write_recipe(tmp_path, tiny_model, data__max_length=4096, data__packing=True)
    rows = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": text}]}
        for n, text in enumerate(texts)
    ]
    write_rows(tmp_path / "train.jsonl", rows)
    return loaded


def shown(loaded: LoadedRecipe, **options: Any) -> str:
    out = io.StringIO()
    show(look(loaded.recipe, ALL), stream=out, **options)
    return out.getvalue()


def test_no_row_drives_the_terminal(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = odd(tmp_path, tiny_model, "\x1b]0;title\x07\x1b[2J", "\u202e\u2066 שלום \x9b31m", "[bold]:smile:[/bold]")
    plain = shown(loaded)
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\u2066"} & set(plain)
    assert "⟨U+001B⟩" in plain.replace("│", "")
    assert "[bold]:smile:[/bold]" in plain.replace("│", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = shown(loaded)
    assert "\x1b[" in coloured
    assert "\x1b]" not in coloured
    assert Text.from_ansi(coloured).plain.count("⟨U+001B⟩") == 2


def test_without_colours_brackets_say_what_is_trained(tiny_model: Path, tmp_path: Path) -> None:
    text = shown(odd(tmp_path, tiny_model, "ab é\nc"))
    assert "«<|end|>»│«<|assistant|>»│⟦a│b│·│é₂│↵\nc│«<|end|>»⟧" in text
    assert "⟦trained⟧  not trained  «special token»" in text


def test_long_rows_are_cut_in_the_middle(tiny_model: Path, tmp_path: Path) -> None:
    loaded = odd(tmp_path, tiny_model, "x" * 2000)
    text = shown(loaded)
    (row,) = look(loaded.recipe, 1).rows()
    left_out = len(row.input_ids) - 600
    assert text.count("x") - text.split("tokens", 1)[0].count("x") < 700
    assert f"[… {left_out:,} tokens, {left_out:,} of them trained: --full shows them …]" in text
    assert "--full" not in shown(loaded, full=True)


def test_a_narrow_terminal_and_an_old_encoding(tiny_model: Path, tmp_path: Path) -> None:
    loaded = odd(tmp_path, tiny_model, "é")
    done = run(str(loaded.path), COLUMNS="10", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2502" in done.stdout


def test_a_reader_that_goes_away(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lorafit", "preview", str(loaded.path), "-n", "24"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_under_a_head_the_class_is_what_is_trained(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model, data__validation=None)
    write_rows(tmp_path / "train.jsonl", [{"text": f"is {n} odd", "label": ["no", "yes"][n % 2]} for n in range(8)])
    preview = look(loaded.recipe, ALL)
    rows: list[dict[str, Any]] = preview.as_json()["rows"]  # type: ignore[assignment]
    assert [row["class"] for row in rows] == ["no", "yes"] * 4
    assert {label for row in rows for label in row["labels"]} == {-100}
    assert "tokens, class yes" in "\n".join(line.plain for line in lines(preview, full=False, coloured=False, width=80))


def test_coloured_and_plain_say_the_same(tiny_model: Path, tmp_path: Path) -> None:
    preview = look(odd(tmp_path, tiny_model, "a b", "c").recipe, ALL)
    plain, coloured = (
        "\n".join(line.plain for line in lines(preview, full=False, coloured=c, width=80)).split("\n", 1)[1]
        for c in (False, True)
    )
    assert plain.translate(dict.fromkeys(map(ord, "⟦⟧«»"))) == coloured


def test_a_tokenizer_that_loses_text_is_found_out(tmp_path: Path) -> None:
    """Rows that the tokenizer cannot write are faults of the rows, never other words in silence."""
    models = Path(__file__).parents[3] / "shared" / "models"
    if not models.is_dir():
        pytest.skip("no shared folder beside the repository")
    model = tmp_path / "model"
    model.mkdir()
    for file in [*(models / "tokenizers" / "tinystories-656k-upstream").iterdir(), *models.glob("tinystories-656k/*")]:
        if not (model / file.name).exists():
            (model / file.name).symlink_to(file)
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "Once upon a time"}, {"text": "Zoë met 中文"}])
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"version": 1, "model": {"path": str(model)}, "data": {"train": str(rows)}}))
    with pytest.raises(DataError) as caught:
        look(load_recipe(recipe, []).recipe, 1)
    assert [(fault.where, fault.code) for fault in caught.value.faults] == [(f"{rows}:2", "E3-ROW-TOKENS")]
