"""Start several processes of the same command on this machine, and answer with the run's own exit code."""

import os
import subprocess
import sys
from collections.abc import Sequence

from lorafit.errors import MachineError


def inside_launcher() -> bool:
    """Say whether torchrun or `accelerate launch` has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first_process() -> bool:
    """Say whether this process is the one that speaks and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def launch(arguments: Sequence[str], count: int) -> int:
    """Run `lorafit ARGUMENTS` in `count` processes; give the launcher's exit code.

    Cards are used where there are any (NCCL), else the CPU (gloo), its cores shared out evenly.
    """
    import torch

    cards = torch.cuda.device_count()
    if cards and count > cards:
        raise MachineError(f"--gpus {count}: this machine has {cards}", fix=f"use --gpus {cards}", code="E5-GPUS")
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    finished = subprocess.run([*command, "-m", "lorafit", *arguments], env=environment, check=False)
    return finished.returncode
