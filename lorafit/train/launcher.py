"""Which of several processes this one is, as whoever started it says in its environment."""

import os


def inside_launcher() -> bool:
    """Say whether we, torchrun or `accelerate launch` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first_process() -> bool:
    """Say whether this process is the one that speaks and writes."""
    return not inside_launcher() or int(os.environ.get("RANK", "0")) == 0
