"""Time the commands that need no model, as a share of a bare `import torch` on the same machine.

Each round runs every command once, so that a busy machine slows all of them alike; the median counts.
"""

import statistics
import subprocess
import sys
import time

ROUNDS = 5
TORCH = ("-c", "import torch")
LORAFIT = ("-c", "from lorafit.cli import main; main()")
COMMANDS = (
    ("--help",),
    ("validate", "recipes/quickstart.yaml"),
    ("estimate-vram", "recipes/quickstart.yaml"),
    ("estimate-vram", "--model", "70b", "--method", "qlora"),
)


def seconds(arguments: tuple[str, ...]) -> float:
    """Time one run of this Python; CalledProcessError when the command fails."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print one line per command: its time divided by that of `import torch`."""
    measured: dict[tuple[str, ...], list[float]] = {command: [] for command in (TORCH, *COMMANDS)}
    for _ in range(ROUNDS):
        for command, times in measured.items():
            times.append(seconds(command if command == TORCH else (*LORAFIT, *command)))
    for command in COMMANDS:
        share = statistics.median(measured[command]) / statistics.median(measured[TORCH])
        print(f"{share:5.2f} x import torch   lorafit {' '.join(command)}")


if __name__ == "__main__":
    main()
