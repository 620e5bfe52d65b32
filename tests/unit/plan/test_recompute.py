"""As few layers as make it fit, and never fewer bytes for more of them."""

from dataclasses import replace

import pytest

from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.recompute import in_words, with_least_recomputation
from lorafit.plan.shapes import shape_by_name
from lorafit.plan.work import work
from lorafit.recipe.adapters import Full, Lora
from lorafit.recipe.quantization import Nf4, Unquantized

ASKED = MemoryQuestion(shape_by_name("llama-3-8b").shape, Lora(), Nf4(), max_length=4096)
LAYERS = len(ASKED.shape.layers)


@pytest.mark.parametrize("accumulation", [True, False])
@pytest.mark.parametrize("adapter", [Lora(), Full()], ids=["lora", "full"])
def test_each_recomputed_layer_takes_no_more(accumulation: bool, adapter: Lora | Full) -> None:
    base = Nf4() if isinstance(adapter, Lora) else Unquantized()
    asked = replace(ASKED, accumulation=accumulation, adapter=adapter, quantization=base)
    kept = replace(asked, checkpointing=False)
    some = [replace(asked, recomputed_layers=count) for count in range(1, LAYERS + 1)]
    peaks = [estimate(question).peak_bytes for question in (kept, *some)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] == estimate(asked).peak_bytes
    flops = [work(question, None, None, None).flops_per_token for question in (kept, *some)]
    assert flops == sorted(flops)
    assert flops[-1] == work(asked, None, None, None).flops_per_token


def test_the_smallest_number_that_fits_is_taken() -> None:
    least, most = (estimate(replace(ASKED, checkpointing=choice)).peak_bytes for choice in (True, False))
    for capacity in range(least, most, (most - least) // 9):
        found = with_least_recomputation(ASKED, lambda asked, room=capacity: estimate(asked).peak_bytes <= room)  # type: ignore[misc]
        assert estimate(found).peak_bytes <= capacity
        assert estimate(replace(found, recomputed_layers=found.recomputed - 1)).peak_bytes > capacity or (
            found.recomputed == 1
        )


def test_nothing_is_recomputed_where_all_fits_and_everything_where_nothing_does() -> None:
    assert with_least_recomputation(ASKED, lambda _: True).recomputed == 0
    assert with_least_recomputation(ASKED, lambda _: False).recomputed == LAYERS


def test_in_words() -> None:
    assert [in_words(count, 32) for count in (0, 5, 32, None)] == [
        "activations kept",
        "5 of 32 layers recomputed",
        "every layer recomputed",
        "every layer recomputed",
    ]
