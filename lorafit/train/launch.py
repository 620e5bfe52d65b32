"""Start several processes of the same command on this machine, and answer with the run's own exit code."""

import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from lorafit.errors import MachineError, RankLost
from lorafit.report.progress import say

GRACE_SECONDS = 10.0  # for the others to end by themselves once one has ended badly; a save cut off costs no run
POLL_SECONDS = 0.1
PR_SET_PDEATHSIG = 1

Process = subprocess.Popen[bytes]


def launch(arguments: Sequence[str], count: int) -> int:
    """Run `lorafit ARGUMENTS` in `count` processes; give the exit code of the first that failed, or 0.

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
        return _verdict(_codes(ranks))


def _codes(ranks: Sequence[Process]) -> dict[int, int]:
    """Wait for all; give the exit code of each that ended by itself, in the order in which they ended."""
    codes: dict[int, int] = {}
    deadline = math.inf
    while len(codes) < len(ranks):
        if time.monotonic() > deadline:
            _kill(ranks)
            return codes
        for rank, process in enumerate(ranks):
            if rank not in codes and process.poll() is not None:
                codes[rank] = process.returncode
        if any(codes.values()):
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        time.sleep(POLL_SECONDS)
    return codes


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
    """Hand SIGTERM and SIGUSR1 to every process. A terminal's SIGINT and SIGHUP reach them by themselves."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in ranks:
            process.send_signal(number)

    def wait_for_them(number: int, frame: FrameType | None) -> None:
        """They save and end; this process stays to give their exit code."""

    handlers = {signal.SIGTERM: pass_on, signal.SIGUSR1: pass_on, signal.SIGINT: wait_for_them}
    handlers[signal.SIGHUP] = wait_for_them
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(ranks: Sequence[Process]) -> None:
    """End the processes that wait for one that is gone."""
    for process in ranks:
        process.kill()
        process.wait()


def _verdict(codes: Mapping[int, int]) -> int:
    """Give the code that says why: that of the first process to fail by itself; RankLost when one was killed."""
    killed = next((rank for rank, code in codes.items() if code < 0), None)
    if killed is not None:
        what = f"process {killed} was killed by signal {-codes[killed]}"
        lost = RankLost(what, fix="go on with --resume", code="E11-RANK")
        if codes.get(0, -1) < 0:
            raise lost
        say(str(lost))  # the first has given its own error to whoever reads --json
        return lost.exit_code
    failed = [code for code in codes.values() if code]
    return next((code for code in failed if code != RankLost.exit_code), max(failed, default=0))
