"""A base split over processes trains the adapter that a whole one trains, bit for bit, and leaves the same run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_recipe
from safetensors.torch import load_file
from several import begin, end, train_in
from test_run import lines, wait_for_steps

from lorafit.rundir.layout import RunFolder
from lorafit.train.start import start

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

# five rows in passes of two: the processes have 3 and 2 rows, in 2 passes and 1
RAGGED = {"training__global_batch_size": 5, "training__micro_batch_size": 2, "training__max_steps": 4}
NF4 = {"quantization": {"kind": "nf4"}, "training__gradient_checkpointing": "full"}
BF16 = {"model__dtype": "bfloat16", "training__gradient_checkpointing": "full", "adapter__dropout": 0.1}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def same(one: Path, other: Path) -> None:
    """Assert that two runs have the same losses, norms and weights, bit for bit."""
    curves = [[(r["loss"], r["grad_norm"]) for r in lines(run / "metrics.jsonl")] for run in (one, other)]
    assert curves[0] == curves[1]
    assert {n: t.tolist() for n, t in weights(one).items()} == {n: t.tolist() for n, t in weights(other).items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"training__eval_every": 2},
        NF4,
        BF16 | {"data__packing": True, "quantization": {"kind": "nf4", "double_quant": False}},
        pytest.param(BF16, marks=pytest.mark.slow),
        pytest.param({"quantization": {"kind": "fp4"}, "training__optimizer": "adamw_8bit"}, marks=pytest.mark.slow),
        pytest.param({"model__attention": "eager", "adapter__target_modules": ["q_proj"]}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_split_base_changes_no_bit(tiny_model: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    for sharding in ("none", "full"):
        loaded = write_recipe(tmp_path, tiny_model, training__sharding=sharding, **RAGGED | changes)
        train_in(2, loaded, tmp_path / sharding)
    same(tmp_path / "none", tmp_path / "full")


def test_stopped_in_two_processes_it_goes_on_in_one(tiny_model: Path, tmp_path: Path) -> None:
    changes = {**RAGGED, "training__max_steps": 30, "training__save_every": 3}
    start(write_recipe(tmp_path, tiny_model, **changes), tmp_path / "whole", "new")
    split = write_recipe(tmp_path, tiny_model, training__sharding="full", **changes)
    processes = begin(split, [tmp_path / "run"] * 2)
    wait_for_steps(processes[0].is_alive, tmp_path / "run" / "metrics.jsonl", 7)
    for process in processes:
        process.kill()
    end(processes)
    start(write_recipe(tmp_path, tiny_model, **changes), tmp_path / "run", "resume")
    one, two = (load for load in map(weights, (tmp_path / "whole", tmp_path / "run")))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    assert RunFolder(tmp_path / "run").checkpoint_steps()
