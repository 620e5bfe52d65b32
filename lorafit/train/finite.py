"""The one error of numbers that are not finite: when, which, what became of the step, and what to do."""

import math
from collections.abc import Mapping

from lorafit.errors import NumericalError

TRAINED = "start anew with --fresh and a lower training.learning_rate"
UNTRAINED = "look at the rows with lorafit preview, and whether the base model itself is sound"


def check_finite(when: str, numbers: Mapping[str, float], fix: str, outcome: str = "") -> None:
    """Let finite numbers pass. NumericalError, with each by its name, where one is not."""
    if all(map(math.isfinite, numbers.values())):
        return
    found = ", ".join(f"{name} is {number}" for name, number in numbers.items())
    raise NumericalError(f"{when}: {found}{'; ' * bool(outcome)}{outcome}", fix=fix, code="E8-NOT-FINITE")
