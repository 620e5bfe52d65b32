"""What `doctor` says is so: of this machine, of a machine that lacks something, and of the run that follows."""

import json
import socket
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from conftest import write_recipe
from toys import toy_llama
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from lorafit import cli
from lorafit.model.adapt import attach
from lorafit.model.documents import use_flat_rows
from lorafit.recipe.schema import Recipe
from lorafit.report import machine
from lorafit.report.finding import Finding
from lorafit.train.doctor import TITLES, diagnose
from lorafit.train.paths import CAPPED, NO_TABLE, TRAINED, way_by_shape, way_of
from lorafit.train.sizes import Sizes
from lorafit.train.start import start

QLORA = Path(__file__).parents[2] / "recipes/quickstart-qlora.yaml"


def named(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_this_machine_is_healthy_and_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", connect)
    result = CliRunner().invoke(cli.app, ["doctor", str(QLORA), "--json"])
    said = json.loads(result.stdout)
    assert (result.exit_code, said["healthy"]) == (0, True)
    assert [part for part in TITLES if part not in {finding["part"] for finding in said["findings"]}] == []
    assert {finding["status"] for finding in said["findings"]} <= {"ok", "on", "off"}


def test_a_hub_that_cannot_be_reached_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert machine.hub_answer().status == "off"


def test_a_broken_library_stops_only_the_recipe_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 0, result.stderr
    result = CliRunner().invoke(cli.app, ["doctor", str(QLORA)])
    assert result.exit_code == 5
    assert "Broken:\n  bitsandbytes" in result.stderr


def test_an_old_package_is_broken_and_told_with_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_bounds", lambda: {"peft": ">=99"})
    found = diagnose(None)
    assert found.exit_code == 5
    assert named(list(found.findings), "peft").fix == "pip install 'peft>=99'"


def test_a_cache_that_cannot_be_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFIT_CACHE", "somewhere")
    monkeypatch.setenv("LORAFIT_CACHE_GIB", "much")
    assert named(list(machine.host()), "row cache").status == "broken"


def toy_gemma2() -> PreTrainedModel:
    sizes = {
        "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
    }  # fmt: skip
    return Gemma2ForCausalLM(Gemma2Config(**sizes)).requires_grad_(False)


@pytest.mark.parametrize("make", [toy_llama, toy_gemma2])
@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
@pytest.mark.parametrize("recompute", [True, False])
def test_what_is_foreseen_is_what_the_model_takes(make: object, kind: str, recompute: bool) -> None:
    assert callable(make)
    model: PreTrainedModel = make()
    blocks = {"model": {"path": "none"}, "adapter": {"kind": kind}, "data": {"train": "none"}}
    recipe = Recipe.model_validate({"version": 1, **blocks})
    use_flat_rows(model, "auto")
    attached = attach(model.requires_grad_(False), recipe.adapter, "base", 0).model
    config, sizes = model.config.to_dict(), Sizes(1, None if recompute else 0, None)
    where = torch.device("cpu"), torch.float32
    foreseen = way_by_shape(recipe, config, *where, sizes, classes=0).findings()
    assert foreseen == way_of(recipe, config, attached, *where, sizes).findings()
    capped, full = make is toy_gemma2, kind == "full"
    reason = TRAINED if full else CAPPED if capped else "a chunk at a time"
    assert reason in named(foreseen, "loss").what
    assert named(foreseen, "attention").status == ("off" if capped else "on")
    assert named(foreseen, "activations").status == ("off" if recompute else "on")
    assert (NO_TABLE in named(foreseen, "activations").what) is recompute  # `sizes` above come of no estimate


def test_a_run_begins_with_the_same_lines(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = write_recipe(tmp_path, tiny_model, training__max_steps=1)
    start(loaded, tmp_path / "run", "new")
    said = capsys.readouterr().err
    paths = [f for f in diagnose(loaded).findings if f.part == "path" and f.name != "sizes"]
    assert paths
    for finding in [*paths, *machine.accelerators("auto")]:
        assert finding.what in said


@pytest.mark.parametrize(("attention", "status"), [("flash_attention_2", "on"), ("auto", "off")])
def test_installed_accelerators_are_on_where_they_are_used(
    attention: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "9.9")
    found = list(machine.accelerators(attention))
    assert (named(found, "flash-attn").status, named(found, "liger-kernel").status) == (status, "off")
    assert all("9.9" in named(found, name).what for name in ("flash-attn", "liger-kernel"))
