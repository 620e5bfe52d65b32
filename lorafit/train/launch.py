"""Start several processes of the same command on this machine, and answer with the run's own exit code."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from lorafit.errors import MachineError, RankLost

GRACE_SECONDS = 30.0  # for the others to end by themselves once one has ended badly
POLL_SECONDS = 0.1
PR_SET_PDEATHSIG = 1

Process = subprocess.Popen[bytes]


def inside_launcher() -> bool:
    """Say whether we, torchrun or `accelerate launch` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first_process() -> bool:
    """Say whether this process is the one that speaks and writes."""
    return not inside_launcher() or int(os.environ.get("RANK", "0")) == 0


def launch(arguments: Sequence[str], count: int) -> int:
    """Run `lorafit ARGUMENTS` in `count` processes; give the exit code of the first.

    Cards are used where there are any (NCCL), else the CPU (gloo), its cores shared out evenly. A signal is
    passed on to all. Raises MachineError without enough cards, RankLost when a process dies.
    """
    import torch

    cards = torch.cuda.device_count()
    if cards and count > cards:
        raise MachineError(f"--gpus {count}: this machine has {cards}", fix=f"use --gpus {cards}", code="E5-GPUS")
    command = [sys.executable, "-m", "lorafit", *arguments]
    port = _free_port()
    ranks = [_start(command, rank, count, port) for rank in range(count)]
    with _passing_on_signals(ranks):
        while all(process.poll() is None for process in ranks):
            time.sleep(POLL_SECONDS)
        if any(process.poll() for process in ranks):
            _end(ranks)
        codes = [process.wait() for process in ranks]
    return _verdict(codes)


def _start(command: list[str], rank: int, count: int, port: int) -> Process:
    """Start one process, in the environment that torchrun would give it; it dies with this one."""
    environment = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent)  # noqa: PLW1509 - one thread here


def _die_with_parent() -> None:
    """Ask Linux for a signal when the parent dies: no process may go on writing into a run that is free again."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _passing_on_signals(ranks: Sequence[Process]) -> Iterator[None]:
    """Hand SIGTERM and SIGUSR1 to every process. SIGINT from a terminal reaches them by itself."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in ranks:
            process.send_signal(number)

    def wait_for_them(number: int, frame: FrameType | None) -> None:
        """They save and end; this process stays to give their exit code."""

    handlers = {signal.SIGTERM: pass_on, signal.SIGUSR1: pass_on, signal.SIGINT: wait_for_them}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(ranks: Sequence[Process]) -> None:
    """Let the others end, for a while; they may wait for one that is gone."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(process.poll() is None for process in ranks):
        time.sleep(POLL_SECONDS)
    for process in ranks:
        process.kill()


def _verdict(codes: Sequence[int]) -> int:
    """Give the first process's code; RankLost when one was killed."""
    killed = [rank for rank, code in enumerate(codes) if code < 0]
    if killed:
        raise RankLost(
            f"process {killed[0]} of {len(codes)} was killed by signal {-codes[killed[0]]}",
            fix="go on with --resume",
            code="E11-RANK",
        )
    return codes[0] or max(codes)
