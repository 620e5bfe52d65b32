"""The experiment trackers that a recipe may name: each is a package of its own, which need not be there."""

from collections.abc import Sequence
from importlib.util import find_spec

from lorafit.errors import Fault

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow",)}


def missing_trackers(names: Sequence[str]) -> list[Fault]:
    """Give a fault for each tracker that is not installed here."""
    return [
        Fault(
            f"the tracker {name} is not installed here",
            "output.trackers",
            f"pip install {PACKAGES[name][0]}, or take it out of the list",
            "E5-TRACKER",
        )
        for name in names
        if not any(find_spec(package) for package in PACKAGES[name])
    ]
