"""The learning rate as a pure function of the step: nothing to checkpoint, nothing to fall out of step."""

import math

from lorafit.recipe.schema import TrainingSpec

DECAY_SHARE = 0.2  # of the steps, at the end of `wsd` (warm-up, stable, decay: arXiv 2405.18392)


def warmup_steps(training: TrainingSpec, total_steps: int) -> int:
    """Give the number of warm-up steps: as written, or that fraction of the run."""
    warmup = training.warmup
    return min(warmup if isinstance(warmup, int) else round(warmup * total_steps), total_steps)


def learning_rate_at(step: int, total_steps: int, training: TrainingSpec) -> float:
    """Give the rate of update number `step` (from 0): linear up over the warm-up, then the schedule."""
    ramp = warmup_steps(training, total_steps)
    if step < ramp:
        return training.learning_rate * (step + 1) / ramp
    return training.learning_rate * _share(training.schedule, step - ramp, total_steps - ramp)


def _share(schedule: str, done: int, length: int) -> float:
    """Give the share of the peak after `done` of `length` steps past the warm-up."""
    progress = done / max(length, 1)
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "wsd":
        return min(1.0, (1 - progress) / DECAY_SHARE)
    assert schedule == "constant"
    return 1.0
