"""Run the same training in several processes, as a launcher would start them, without importing everything anew."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from accelerate.state import AcceleratorState, PartialState

from lorafit.errors import LorafitError
from lorafit.recipe.load import LoadedRecipe
from lorafit.report.progress import say
from lorafit.rundir.state import Mode
from lorafit.train.start import start

Process = multiprocessing.context.ForkProcess


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def begin(loaded: LoadedRecipe | list[LoadedRecipe], roots: list[Path], mode: Mode = "new") -> list[Process]:
    """Start a process for each root (one and the same, or each node's own)."""
    port, fork = free_port(), multiprocessing.get_context("fork")
    recipes = loaded if isinstance(loaded, list) else [loaded] * len(roots)
    works = [partial(start, one, root, mode) for one, root in zip(recipes, roots, strict=True)]
    processes = [fork.Process(target=_one, args=(work, rank, len(roots), port)) for rank, work in enumerate(works)]
    for process in processes:
        process.start()
    return processes


def do(count: int, work: Callable[[], object]) -> None:
    """Have so many processes do the same work, which must not fail."""
    port, fork = free_port(), multiprocessing.get_context("fork")
    processes = [fork.Process(target=_one, args=(work, rank, count, port)) for rank in range(count)]
    for process in processes:
        process.start()
    assert end(processes) == [0] * count


def _one(work: Callable[[], object], rank: int, ranks: int, port: int) -> None:
    count = str(ranks)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(reset_partial_state=True)  # that of the process we came from
    assert not PartialState._shared_state
    try:
        work()
    except LorafitError as error:
        say(str(error))
        sys.exit(error.exit_code)


def end(processes: list[Process]) -> list[int | None]:
    """Wait for all; give their exit codes."""
    for process in processes:
        process.join(200)
    return [process.exitcode for process in processes]


def train_in(count: int, loaded: LoadedRecipe, root: Path, mode: Mode = "new") -> None:
    """Train in so many processes."""
    assert end(begin(loaded, [root] * count, mode)) == [0] * count
