"""What plain transformers holds, with a mask, without autocast, with float32 norms, against traces of its own step.

Each row is a drawn question (`scripts/vram_draw.py`) and what `scripts/vram_agreement.py --explain` says of it, in MiB.
"""

import pytest

from lorafit.plan.memory import estimate
from scripts.vram_draw import drawn

# seed, index, the moments of the trace, and what these rows were wrong in before
TRACED = [
    # float32 results of adapters over a 4-bit base, and attention in float32: no autocast brings them to 16 bits
    (2007, 45, {"loss, backward": 3194.6, "backward of a layer": 1900.3, "forward of a layer": 1904.4}),
    # gelu written out is float32 under autocast alone
    (2007, 49, {"loss, backward": 1002.4, "backward of a layer": 430.2, "forward of a layer": 548.8}),
    # the one key that all heads read is not repeated
    (2007, 48, {"loss, backward": 1165.6, "backward of a layer": 822.9, "forward of a layer": 815.0}),
    # of float32, autocast takes a copy for each head
    (2007, 40, {"forward of a layer": 3418.6, "loss, backward": 2831.7}),
    (2007, 44, {"loss, backward": 17_976.2}),
    # learned positions are no norm; B A of DoRA keeps A and what it makes
    (2007, 51, {"forward of a layer": 4954.9, "backward of a layer": 3396.9}),
    # a mask for all rows, in float32, held by recomputed layers
    (2007, 41, {"loss, backward": 3171.1, "backward of a layer": 433.5}),
    # float32, grouped keys and no mask: torch's own formula
    (2007, 42, {"loss, backward": 685.5, "backward of a layer": 463.0}),
    # gradients of trained weights within the layer at work, and that of a tied head until the embedding's comes
    (2007, 57, {"loss, backward": 2988.6, "backward of a layer": 2997.7}),
    (2007, 55, {"loss, backward": 10_702.8, "backward of a layer": 10_666.1}),
    (3007, 6, {"loss, backward": 8930.3, "backward of a layer": 8867.1, "forward of a layer": 8107.3}),
    # turned and other parts joined: another layout
    (1007, 76, {"loss, forward": 887.2, "backward of a layer": 759.0}),
    # experts' rows times their shares, which a softmax leaves in float32 and autocast's sigmoid does not
    (1007, 49, {"backward of a layer": 7507.0, "forward of a layer": 7190.0}),
    (7, 12, {"backward of a layer": 958.6}),
    # int8 keeps its input, which keeps what it can be made again of
    (1007, 54, {"loss, forward": 1241.6, "backward of a layer": 1225.3}),
]


@pytest.mark.parametrize(("seed", "index", "moments"), TRACED, ids=[f"{seed}-{index}" for seed, index, _ in TRACED])
def test_moments_are_those_of_the_trace(seed: int, index: int, moments: dict[str, float]) -> None:
    found = estimate(drawn(seed, index).question).phases
    assert {name: found[name] / 2**20 for name in moments} == pytest.approx(moments, rel=0.01)
