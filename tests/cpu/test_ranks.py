"""Several processes give what one gives, by whatever they were started, and end together when one of them does."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import write_recipe
from several import Process, begin, do, end, free_port, train_in
from test_oracle import BATCH, make_loop, one_row_packs, ragged_rows
from test_run import LONG, command, lines, overrides, wait_for_steps, weights_hash
from torch.utils._python_dispatch import TorchDispatchMode

from lorafit.errors import RankLost
from lorafit.recipe.load import LoadedRecipe
from lorafit.train import launch
from lorafit.train.ranks import Ranks
from lorafit.train.start import start

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

# five rows in passes of two; the last window of an epoch of 24 rows is short
RAGGED = {"training__global_batch_size": 5, "training__micro_batch_size": 2}
ENDLESS = LONG | {"training__max_steps": 4000}


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in lines(run / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (2, {"training__global_batch_size": 1}),  # the second process never has a row
        pytest.param(4, RAGGED, marks=pytest.mark.slow),
        pytest.param(4, RAGGED | {"data__packing": True, "training__micro_batch_size": 1}, marks=pytest.mark.slow),
        pytest.param(4, RAGGED | {"training__sharding": "full"}, marks=pytest.mark.slow),
        pytest.param(4, {"training__global_batch_size": 3, "training__sharding": "full"}, marks=pytest.mark.slow),
        pytest.param(2, RAGGED | {"training__micro_batch_size": 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_several_equal_one(tiny_model: Path, tmp_path: Path, count: int, changes: dict[str, Any]) -> None:
    epoch = {"training__max_steps": None, "training__epochs": 1, "training__micro_batch_size": 1, **changes}
    loaded = write_recipe(tmp_path, tiny_model, **epoch)
    start(loaded, tmp_path / "one", "new")
    train_in(count, loaded, tmp_path / "several")
    one, several = losses(tmp_path / "one"), losses(tmp_path / "several")
    assert several == pytest.approx(one, abs=1e-6)
    assert len(one) > 1


class Reads(TorchDispatchMode):
    """Counts the numbers that the host asks of a device, each of which waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_a_step_of_several_processes_waits_for_no_device(tiny_model: Path) -> None:
    def take_two() -> None:
        rows = ragged_rows(BATCH)
        loop = make_loop(tiny_model, rows, one_row_packs(rows), micro=2)
        loop.step(0)
        with Reads() as reads:
            taken = loop.step(1)
        assert reads.count == 0
        with Reads() as reads:
            float(taken.late.host[0])
        assert reads.count == 1  # so that it would have been seen
        loop.close()
        loop.ranks.close()

    do(2, take_two)


@pytest.mark.parametrize("count", [1, 2])
def test_gradients_are_added_up_one_tensor_where_it_lies(count: int) -> None:
    def add_up() -> None:
        ranks = Ranks()
        tensors = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(count)]
        tensors[0].grad = torch.full((2, 3), 1.0 + ranks.rank)
        place = tensors[0].grad.data_ptr()
        ranks.sum_gradients(tensors)
        for tensor, wanted in zip(tensors, (3.0, 0.0), strict=False):
            assert tensor.grad is not None
            assert tensor.grad.unique().tolist() == [wanted]
        assert tensors[0].grad.data_ptr() == place
        assert ranks.any_of([ranks.rank == 1, False]) == [True, False]
        ranks.close()

    do(2, add_up)


def until(processes: list[Process], root: Path, steps: int) -> None:
    """Wait until so many steps are written down."""
    wait_for_steps(lambda: all(p.is_alive() for p in processes), root / "metrics.jsonl", steps)


def test_only_the_first_process_needs_the_run_folder(tiny_model: Path, tmp_path: Path) -> None:
    changes = LONG | {"training__max_steps": 20, "data__packing": True}
    stopping = {"training__early_stopping": {"patience": 50}, "training__eval_every": 4}
    loaded = write_recipe(tmp_path, tiny_model, **changes, **stopping)
    shared, nodes = [tmp_path / "shared"] * 2, [tmp_path / "first", tmp_path / "second"]
    train_in(2, loaded, shared[0])
    cut_off = begin(loaded, nodes)
    until(cut_off, nodes[0], 9)
    for process in cut_off:
        process.kill()
    end(cut_off)
    for _ in ("goes on", "has nothing left to do"):
        assert end(begin(loaded, nodes, "resume")) == [0, 0]
    assert weights_hash(nodes[0]) == weights_hash(shared[0])
    assert not nodes[1].exists()


@pytest.mark.slow  # test_run loses one of two every day
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_killed_process_ends_the_others_at_once(tiny_model: Path, tmp_path: Path, sharding: str) -> None:
    loaded = write_recipe(tmp_path, tiny_model, **ENDLESS | {"training__sharding": sharding})
    processes = begin(loaded, [tmp_path / "run"] * 2)
    until(processes, tmp_path / "run", 6)
    processes[1].kill()
    since = time.monotonic()
    assert end(processes) == [RankLost.exit_code, -signal.SIGKILL]
    assert time.monotonic() - since < 30
    shorter = LONG | {"training__max_steps": 4000, "training__sharding": sharding}
    going_on = begin(write_recipe(tmp_path, tiny_model, **shorter), [tmp_path / "run"] * 2, "resume")
    until(going_on, tmp_path / "run", 9)
    for process in going_on:
        process.terminate()
    assert end(going_on) == [75, 75]


def test_a_model_that_one_process_lacks_is_that_error(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model, **LONG)
    broken = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"")
    other = write_recipe(tmp_path, broken, **LONG)
    codes = end(begin([loaded, other], [tmp_path / "run"] * 2))
    assert codes[1] == 4
    assert codes[0] in (4, 11)
    assert launch._verdict({0: codes[0] or 0, 1: 4}) == 4


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ({0: 0, 1: 0}, 0),
        ({1: 4, 0: 11}, 4),
        ({0: 11, 1: 7}, 7),
        ({0: 11, 1: 11}, 11),
        ({1: 75, 0: 75}, 75),
        ({1: 1}, 1),
    ],
)
def test_the_code_is_that_of_the_cause(codes: dict[int, int], code: int) -> None:
    assert launch._verdict(codes) == code


def test_a_lost_first_process_is_told_by_the_launcher(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RankLost, match="process 0 was killed by signal 9"):
        launch._verdict({0: -9, 1: 11})
    assert launch._verdict({1: -9, 0: 11}) == 11
    assert "process 1 was killed by signal 9" in capsys.readouterr().err


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_and_says_75(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write_recipe(tmp_path, tiny_model, **ENDLESS)
    parent = subprocess.Popen(
        command(loaded.path, *overrides(ENDLESS), "--out", str(tmp_path / "run"), "--gpus", "2"), stderr=subprocess.PIPE
    )
    try:
        wait_for_steps(lambda: parent.poll() is None, tmp_path / "run" / "metrics.jsonl", 3)
        ranks = children(parent)
    finally:
        parent.terminate()
        said = parent.communicate(timeout=60)[1]
    assert parent.returncode == 75, said
    assert not any(process.is_running() for process in ranks)
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", "lorafit", "train"]


def accelerate(*options: str) -> list[str]:
    wanted = ("--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    return [sys.executable, "-m", "accelerate.commands.launch", *wanted, *options, "-m", "lorafit", "train"]


def run_all(commands: list[list[str]]) -> None:
    started = [subprocess.Popen(words, stderr=subprocess.PIPE) for words in commands]
    for process in started:
        said = process.communicate(timeout=200)[1]
        assert process.returncode == 0, said.decode()


def started_by(starter: list[str], loaded: LoadedRecipe, root: Path, changes: dict[str, Any]) -> list[str]:
    return [*starter, str(loaded.path), *overrides(changes), "--out", str(root)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "count", "port"),
    [(torchrun, "--nproc-per-node", "--master-port"), (accelerate, "--num_processes", "--main_process_port")],
)
def test_a_launcher_gives_the_same_bytes(
    tiny_model: Path, tmp_path: Path, launcher: Callable[..., list[str]], count: str, port: str
) -> None:
    loaded = write_recipe(tmp_path, tiny_model, **RAGGED)
    train_in(2, loaded, tmp_path / "ours")
    run_all([started_by(launcher(count, "2", port, str(free_port())), loaded, tmp_path / "theirs", RAGGED)])
    assert weights_hash(tmp_path / "theirs") == weights_hash(tmp_path / "ours")


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_two_nodes_give_the_same_bytes(tiny_model: Path, tmp_path: Path, shared: bool) -> None:
    loaded = write_recipe(tmp_path, tiny_model, **RAGGED)
    train_in(2, loaded, tmp_path / "ours")
    port, roots = str(free_port()), [tmp_path / "node-0", tmp_path / ("node-0" if shared else "node-1")]
    place = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
    run_all(
        [started_by(torchrun(*place, "--node-rank", str(n)), loaded, roots[n], RAGGED) for n in range(2)],
    )
    assert weights_hash(roots[0]) == weights_hash(tmp_path / "ours")
    assert shared or not roots[1].exists()


def test_a_pass_without_targets_has_a_gradient_of_zero() -> None:
    from lorafit.model.head_loss import head_loss

    hidden, head = torch.zeros(0, 8, requires_grad=True), torch.nn.Linear(8, 5, bias=False).requires_grad_(False)
    nats = head_loss(hidden, head, torch.zeros(0, dtype=torch.long))
    nats.backward()
    assert (nats.item(), hidden.grad is not None and hidden.grad.numel()) == (0.0, 0)
