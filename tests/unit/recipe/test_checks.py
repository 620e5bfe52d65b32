"""Values that are good by themselves and wrong together, and paths that no run should use."""

from pathlib import Path

import pytest

from lorafit.errors import RecipeError, SafetyRefusal
from recipe.texts import Faults, Load

HELD_OUT = "data: {train: {path: x}, validation: {fraction: 0.1}}"
START = "version: 1\nmodel: {path: x}\n"


def test_warmup_ends(faults: Faults, load: Load) -> None:
    assert "recipe.yaml:4:20: training.warmup: a warm-up of 5 steps does not end within max_steps: 5" in faults(
        "+training: {warmup: 5, max_steps: 5}"
    )[0]  # fmt: skip
    load("+training: {warmup: 4, max_steps: 5}")
    load("+training: {warmup: 99999, epochs: 1}")  # how many steps an epoch has, only the plan knows


@pytest.mark.parametrize("key", ["eval_every: 10", "early_stopping: {}"])
def test_evaluation_has_rows(faults: Faults, key: str) -> None:
    assert "needs held-out rows, and data.validation is not given" in faults(f"+training: {{{key}}}")[0]


def test_early_stopping_evaluates(faults: Faults, load: Load) -> None:
    said = faults(f"{START}{HELD_OUT}\ntraining: {{early_stopping: {{}}}}")
    assert said[0].startswith("recipe.yaml:4:12: training.early_stopping: needs training.eval_every")
    load(f"{START}{HELD_OUT}\ntraining: {{early_stopping: {{}}, eval_every: 5}}")


@pytest.mark.parametrize("key", ["split: test", "limit: 5", "format: chat"])
def test_fraction_stands_alone(faults: Faults, load: Load, key: str) -> None:
    said = faults(f"{START}data: {{train: {{path: x}}, validation: {{fraction: 0.1, {key}}}}}")
    assert f"data.validation.{key.split(':')[0]}: goes with a path" in said[0]
    load(f"{START}data: {{train: {{path: x}}, validation: {{path: y, {key}}}}}")


def test_micro_batch_fits_in_batch(faults: Faults, load: Load) -> None:
    said = faults("+training: {micro_batch_size: 9, global_batch_size: 8}")
    assert "training.micro_batch_size: 9 rows are more than training.global_batch_size: 8" in said[0]
    load("+training: {micro_batch_size: 3, global_batch_size: 8}")


@pytest.mark.parametrize("key", ["adapter: {kind: full}", "adapter: {kind: dora}", "quantization: {kind: int8}"])
def test_base_can_be_split(faults: Faults, load: Load, key: str) -> None:
    assert "training.sharding: " in faults(f"+{key}\ntraining: {{sharding: full}}")[0]
    load(f"+{key}\ntraining: {{sharding: auto}}")
    load("+training: {sharding: full}")


def test_target_pattern_is_safe(faults: Faults, load: Load) -> None:
    assert "adapter.target_modules.regex: not a regular expression" in faults(
        "+adapter: {target_modules: {regex: '(a'}}"
    )[0]  # fmt: skip
    load(r"+adapter: {target_modules: {regex: '.*layers\.(1|2[0-9])\..*(q|v)_proj'}}")


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("~/models/x", "~ and $ are not expanded"),
        ("$HOME/x", "~ and $ are not expanded"),
        ("a\\nb", "the path holds U+000A"),
        ("a\\0b", "the path holds U+0000"),
        ("a\\u200bb", "the path holds U+200B ZERO WIDTH SPACE"),
        ("a" * 256, "a name of more than 255 bytes"),
        ("x/" + "é" * 128, "a name of more than 255 bytes"),
    ],
)
def test_paths_are_plain(faults: Faults, path: str, what: str) -> None:
    text = f"""version: 1
model: {{path: "{path}"}}
data: {{train: [{{path: x}}, {{path: "{path}"}}], validation: {{path: "{path}"}}, chat_template: "{path}"}}
adapter: {{init_from: "{path}"}}
output: {{dir: "{path}"}}"""
    said = faults(text)
    assert len(said) == 6
    assert all(what in line and "[E2-PATH]" in line for line in said)


@pytest.mark.parametrize("path", ["meta-llama/Meta-Llama-3-8B", "/a b/c'd", "gs://bucket/*.jsonl", "été.jsonl", "a~b"])
def test_odd_paths_are_paths(load: Load, path: str) -> None:
    assert load("+", f'model.path="{path}"').model.path == path


@pytest.mark.parametrize(
    "folder", ["/", ".", "./", "../x", "runs/../../x", "/nowhere/home", "/nowhere", "data", "x/.."]
)
def test_output_is_its_own_folder(load: Load, folder: str) -> None:
    with pytest.raises(SafetyRefusal, match=r"output\.dir: .*E12-PATH"):
        load("+", "data.train.path=data/train.jsonl", f"output.dir={folder}")


@pytest.mark.parametrize("folder", ["runs/x", "/tmp/runs", "/nowhere/home/runs", "database", "runs/..x", "-x"])
def test_other_folders_are_fine(load: Load, folder: str) -> None:
    assert load("+", "data.train.path=data/train.jsonl", f"output.dir={folder}").output.dir == folder


def test_the_current_folder_is_no_run_folder(load: Load) -> None:
    with pytest.raises(SafetyRefusal, match="is the current folder"):
        load("+", f"output.dir={Path.cwd()}")


def test_a_link_to_the_home_folder_is_the_home_folder(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to("real")
    (tmp_path / "link").symlink_to("home")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("home", "real", "link"):
        with pytest.raises(SafetyRefusal, match="is the home folder"):
            load("+", f"output.dir={tmp_path / name}")
    load("+", f"output.dir={tmp_path / 'circle'}")  # for the run folder to refuse


def test_a_machine_without_home_folders(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    load("+", "output.dir=/tmp/x")


def test_checks_and_faults_come_together(load: Load) -> None:
    with pytest.raises(SafetyRefusal) as caught:
        load("+training: {warmup: 5, max_steps: 5}\nadapter: {rnk: 5}\noutput: {dir: /}")
    assert [fault.code for fault in caught.value.faults] == ["E2-RULE", "E2-KEY", "E12-PATH"]
    assert not isinstance(caught.value, RecipeError)
