"""Numbers that are not finite have one error, which names each of them."""

import math

import pytest

from lorafit.errors import NumericalError
from lorafit.train.finite import TRAINED, check_finite


def test_finite_numbers_pass() -> None:
    check_finite("step 1", {"the loss": 0.0, "the norm": 1e38}, TRAINED)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_others_are_named_with_all_of_their_step(number: float) -> None:
    with pytest.raises(NumericalError) as caught:
        check_finite("step 1", {"the loss": 2.5, "the norm": number}, TRAINED, "nothing was applied")
    (fault,) = caught.value.faults
    assert fault.what == f"step 1: the loss is 2.5, the norm is {number}; nothing was applied"
    assert (fault.fix, fault.code) == (TRAINED, "E8-NOT-FINITE")
