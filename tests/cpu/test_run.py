"""A whole run, its folder, and the ways in which it can be cut off."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import TEMPLATE, chat_rows, write_recipe, write_rows
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lorafit.cli import main
from lorafit.data import today
from lorafit.errors import DataError, ModelError, ResumeRefused, RunInUse, StorageError
from lorafit.evaluate.questions import held_out
from lorafit.evaluate.run import evaluate
from lorafit.model.run import load_run, trained_on
from lorafit.model.tokenizer import load_tokenizer
from lorafit.recipe.load import LoadedRecipe
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.state import Mode
from lorafit.train import run as training
from lorafit.train.start import look_ahead, start

LONG = {"training__max_steps": 32, "training__save_every": 4, "training__schedule": "linear"}


def weights_hash(run: Path) -> str:
    return hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(recipe: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "lorafit", "train", str(recipe), *options]


def overrides(changes: dict[str, Any]) -> list[str]:
    return [f"--set={key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]


def test_a_run_leaves_its_folder_and_an_adapter_that_plain_peft_loads(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model, training__eval_every=3)
    result = start(loaded, tmp_path / "run", "new")
    folder = RunFolder(tmp_path / "run")
    assert (result["status"], result["steps"]) == ("finished", 6)
    assert result["adapter_sha256"] == weights_hash(folder.root)
    assert [line["step"] for line in lines(folder.metrics)] == [1, 2, 3, 4, 5, 6]
    evaluations = [e for e in lines(folder.events) if e["event"] == "evaluation"]
    assert [e["step"] for e in evaluations] == [0, 3, 6]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert folder.recipe.read_bytes() == loaded.text
    memory = json.loads(folder.memory_report.read_text())
    assert memory["estimated"]["peak_bytes"] == result["estimated_peak_bytes"]
    assert memory["measured"]["resident_bytes"] >= result["peak_bytes"]

    ids = torch.arange(5, 25)[None]
    ours = load_run(folder.root).model
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, folder.adapter)
    with torch.no_grad():
        assert torch.equal(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)
        with theirs.disable_adapter():
            assert not torch.allclose(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-3)


def test_equal_recipes_give_equal_bytes_wherever_they_run(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model, adapter__dropout=0.1)
    for name in ("one", "other"):
        start(loaded, tmp_path / name, "new")
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / n / "adapter").iterdir()} for n in ("one", "other"))
    assert one == other


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter__kind": "dora"},
        {"adapter__rslora": True, "adapter__target_modules": ["q_proj", "v_proj"]},
        {"adapter__target_modules": {"regex": r".*layers\.1\..*proj"}},
        {"quantization": {"kind": "nf4"}, "training__optimizer": "paged_adamw_8bit"},
        {"quantization": {"kind": "int8"}},
        {"quantization": {"kind": "fp4", "double_quant": False}},
        {"adapter": {"kind": "full"}, "training__learning_rate": 0.001},
        {"data__packing": True, "model__attention": "eager"},
        {"model__dtype": "bfloat16", "training__gradient_checkpointing": "full"},
    ],
    ids=str,
)
def test_every_kind_trains_and_loads_again(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("peft.tuners.lora.dora.DoraLinearLayer.forward")  # which builds a weight for every pass
    loaded = write_recipe(tmp_path, tiny_model, **changes)
    result = start(loaded, tmp_path / "run", "new")
    assert result["eval"]["loss"] == result["eval"]["loss"]
    with torch.no_grad():
        assert load_run(tmp_path / "run").model(input_ids=torch.arange(5, 25)[None]).logits.isfinite().all()


def test_init_from_goes_on_where_the_other_adapter_ended(tiny_model: Path, tmp_path: Path) -> None:
    start(write_recipe(tmp_path, tiny_model), tmp_path / "first", "new")
    second = write_recipe(tmp_path, tiny_model, adapter__init_from=str(tmp_path / "first" / "adapter"))
    start(second, tmp_path / "second", "new")
    losses = [
        [e["loss"] for e in lines(tmp_path / name / "events.jsonl") if e["event"] == "evaluation"]
        for name in ("first", "second")
    ]
    assert losses[1][0] == pytest.approx(losses[0][-1], abs=1e-6)


def test_another_adapter_to_begin_with_is_refused_before_the_data_are_read(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(write_recipe(tmp_path, tiny_model), tmp_path / "first", "new")
    first = str(tmp_path / "first" / "adapter")
    monkeypatch.setattr(training, "read_together", None)
    changes = {"adapter__init_from": first, "adapter__rank": 8, "adapter__target_modules": ["q_proj", "up_proj"]}
    second = write_recipe(tmp_path, tiny_model, **changes, data__chat_template=str(tmp_path / "none.jinja"))
    for begin in (lambda: start(second, tmp_path / "second", "new"), lambda: look_ahead(second, 1)):
        with pytest.raises(ModelError) as caught:
            begin()
        said = [fault.what for fault in caught.value.faults]
        assert said[0] == f"the adapter at {first} has r 4, the recipe says 8"
        assert "up_proj, v_proj, the recipe's on q_proj, up_proj" in said[1]
        assert "none.jinja" in said[2]
        assert len(said) == 3


def test_early_stopping_keeps_the_best_step(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"training__early_stopping": {"patience": 2}, "training__eval_every": 1}
    loaded = write_recipe(tmp_path, tiny_model, training__max_steps=40, training__learning_rate=0.2, **changes)
    result = start(loaded, tmp_path / "run", "new")
    events = [e for e in lines(tmp_path / "run" / "events.jsonl") if e["event"] == "evaluation"]
    best = min(events[1:], key=lambda e: e["loss"])
    assert result["steps"] == best["step"] + 2 < 40
    assert result["eval"]["loss"] == best["loss"]
    checkpoint = load_file(RunFolder(tmp_path / "run").checkpoint(best["step"]) / "adapter.safetensors")
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert sorted(t.sum().item() for t in checkpoint.values()) == sorted(t.sum().item() for t in adapter.values())


def test_a_used_folder_is_refused_and_a_finished_run_has_nothing_left(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model)
    first = start(loaded, tmp_path / "run", "new")
    with pytest.raises(RunInUse):
        start(loaded, tmp_path / "run", "new")
    assert start(loaded, tmp_path / "run", "resume") == first
    with pytest.raises(ResumeRefused, match=r"training\.learning_rate"):
        start(write_recipe(tmp_path, tiny_model, training__learning_rate=0.5), tmp_path / "run", "resume")


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def test_a_damaged_best_step_is_not_published(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"training__early_stopping": {"patience": 2}, "training__eval_every": 1, "training__learning_rate": 0.2}
    loaded = write_recipe(tmp_path, tiny_model, training__max_steps=40, **changes)
    start(loaded, tmp_path / "whole", "new")
    run = RunFolder(tmp_path / "run")
    shutil.copytree(tmp_path / "whole", run.root)
    best = min((e for e in lines(run.events) if e["event"] == "evaluation" and e["step"]), key=lambda e: e["loss"])
    flip_a_bit(run.checkpoint(best["step"]) / "adapter.safetensors")
    shutil.rmtree(run.adapter)
    state = json.loads(run.state.read_text())
    run.state.write_text(json.dumps(state | {"status": "running"}))
    with pytest.raises(StorageError, match=r"adapter\.safetensors"):
        start(loaded, run.root, "resume")
    assert not run.adapter.exists()


def test_another_base_under_the_adapter_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    start(write_recipe(tmp_path, base), tmp_path / "run", "new")
    load_run(tmp_path / "run")
    tensors = load_file(base / "model.safetensors")
    save_file({name: 1.05 * t for name, t in tensors.items()}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="the base has changed"):
        load_run(tmp_path / "run")


def test_held_out_rows_of_a_changed_file_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model, data__validation={"fraction": 0.3})
    start(loaded, tmp_path / "run", "new")
    evaluate(str(tmp_path / "run"), data=[], metrics=[], compare_base=False)
    write_rows(tmp_path / "train.jsonl", chat_rows(60))
    with pytest.raises(DataError, match="have changed since the run"):
        evaluate(str(tmp_path / "run"), data=[], metrics=[], compare_base=False)


def test_a_date_in_the_template_is_that_of_the_run(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=1)

    template = tmp_path / "dated.jinja"
    template.write_text("{{ strftime_now('%d') }}" + TEMPLATE)
    changes = {"data__validation": {"fraction": 0.3}, "data__chat_template": str(template)}
    loaded = write_recipe(tmp_path, tiny_model, **changes)
    start(loaded, tmp_path / "run", "new")
    evaluate(str(tmp_path / "run"), data=[], metrics=[], compare_base=False)
    metrics = RunFolder(tmp_path / "run").metrics.read_bytes()
    monkeypatch.setattr(today, "datetime", Tomorrow)
    evaluate(str(tmp_path / "run"), data=[], metrics=[], compare_base=False)
    state = json.loads(RunFolder(tmp_path / "run").state.read_text())
    RunFolder(tmp_path / "run").state.write_text(json.dumps(state | {"status": "running"}))
    start(loaded, tmp_path / "run", "resume")
    assert RunFolder(tmp_path / "run").metrics.read_bytes() == metrics
    with today.on_day(date.today() + timedelta(days=1)), pytest.raises(DataError, match="other tokens than in the run"):
        held_out(
            loaded.recipe, load_tokenizer(tmp_path / "run" / "adapter"), [], trained_on(RunFolder(tmp_path / "run"))
        )


def wait_for_steps(is_running: Callable[[], bool], metrics: Path, count: int) -> None:
    for _ in range(20_000):
        if metrics.exists() and len(metrics.read_bytes().splitlines()) >= count:
            return
        assert is_running(), "the run ended before it could be cut off"
        time.sleep(0.005)
    raise AssertionError("the run never got there")


def killed_after(steps: int, loaded: LoadedRecipe, root: Path, mode: Mode) -> None:
    """Train in a process of its own, and kill it once so many steps are written down."""
    process = multiprocessing.get_context("fork").Process(target=start, args=(loaded, root, mode))
    process.start()
    wait_for_steps(process.is_alive, root / "metrics.jsonl", steps)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("optimizer", ["adamw", "paged_adamw_8bit"])
def test_killed_and_resumed_equals_never_killed(tiny_model: Path, tmp_path: Path, optimizer: str) -> None:
    changes = LONG | {"training__optimizer": optimizer, "adapter__dropout": 0.1, "data__packing": True}
    loaded = write_recipe(tmp_path, tiny_model, **changes)
    start(loaded, tmp_path / "whole", "new")
    for kill_at in (3, 10, 27):
        killed_after(kill_at, loaded, tmp_path / "run", "new" if kill_at == 3 else "resume")
    start(loaded, tmp_path / "run", "resume")
    assert weights_hash(tmp_path / "run") == weights_hash(tmp_path / "whole")
    kept = [[r["loss"] for r in lines(tmp_path / name / "metrics.jsonl")] for name in ("run", "whole")]
    assert kept[0] == kept[1]


def test_a_lost_process_ends_the_run_with_11(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model, **LONG | {"training__max_steps": 2000})
    options = [*overrides(LONG | {"training__max_steps": 2000}), "--out", str(tmp_path / "run"), "--gpus", "2"]
    parent = subprocess.Popen(command(loaded.path, *options), stderr=subprocess.PIPE)
    wait_for_steps(lambda: parent.poll() is None, tmp_path / "run" / "metrics.jsonl", 5)
    victim = max(psutil.Process(parent.pid).children(), key=lambda child: int(child.environ()["RANK"]))
    victim.kill()
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == 11
    assert b"process 1 was killed by signal 9" in said
    assert b"Traceback" not in said


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_less_memory_after_a_kill_changes_no_number(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = LONG | {"training__micro_batch_size": "auto", "adapter__dropout": 0.1}
    loaded = write_recipe(tmp_path, tiny_model, **changes)
    start(loaded, tmp_path / "whole", "new")
    killed_after(20, loaded, tmp_path / "run", "new")
    monkeypatch.setattr(training, "free_bytes", lambda *_: 2**24)
    start(loaded, tmp_path / "run", "resume")
    assert weights_hash(tmp_path / "run") == weights_hash(tmp_path / "whole")


def type_in(arguments: list[str], words: Path) -> None:
    """Run a command in this process, what it says going to a file."""
    sys.argv = ["lorafit", *arguments]
    os.dup2(os.open(words, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    main()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_asked_to_stop_it_saves_says_75_and_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model, **LONG)
    start(loaded, tmp_path / "whole", "new")
    words = ["train", str(loaded.path), *overrides(LONG), "--out", str(tmp_path / "run")]
    process = multiprocessing.get_context("fork").Process(target=type_in, args=(words, tmp_path / "said"))
    process.start()
    wait_for_steps(process.is_alive, tmp_path / "run" / "metrics.jsonl", 9)
    process.terminate()
    process.join()
    assert process.exitcode == 75
    assert "--resume" in (tmp_path / "said").read_text()
    assert "Traceback" not in (tmp_path / "said").read_text()
    start(loaded, tmp_path / "run", "resume")
    assert weights_hash(tmp_path / "run") == weights_hash(tmp_path / "whole")


def test_two_processes_equal_one(tiny_model: Path, tmp_path: Path) -> None:
    # five rows in passes of two: the processes have 3 and 2 rows, in 2 passes and 1
    changes = {"training__global_batch_size": 5, "training__micro_batch_size": 2}
    loaded = write_recipe(tmp_path, tiny_model, **changes)
    start(loaded, tmp_path / "one", "new")
    options = [*overrides(changes), "--out", str(tmp_path / "two"), "--gpus", "2"]
    finished = subprocess.run(command(loaded.path, *options), env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert finished.returncode == 0
    one, two = ([r["loss"] for r in lines(tmp_path / n / "metrics.jsonl")] for n in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-6)
    adapters = [load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("one", "two")]
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], tensor, rtol=1e-4, atol=1e-6)
