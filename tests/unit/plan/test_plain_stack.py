"""What plain transformers holds, with a mask, without autocast, with float32 norms, against traces of its own step.

Each row is a drawn question (`scripts/vram_draw.py`) and what `scripts/vram_agreement.py --explain` says of it, in MiB.
"""

import pytest

from lorafit.plan.memory import estimate
from scripts.vram_draw import drawn

# seed, index, the moments of the trace, and what these rows were wrong in before
TRACED = [
    # float32 results of adapters over a 4-bit base, and attention in float32: no autocast brings them to 16 bits
    (2007, 45, {"loss, backward": 3202.7, "backward of a layer": 1908.4, "forward of a layer": 1912.5}),
    # gelu written out is float32 under autocast alone
    (2007, 49, {"loss, backward": 1010.5, "backward of a layer": 438.3, "forward of a layer": 556.9}),
    # the one key that all heads read is not repeated
    (2007, 48, {"loss, backward": 1173.7, "backward of a layer": 831.0, "forward of a layer": 823.1}),
    # of float32, autocast takes a copy for each head
    (2007, 40, {"forward of a layer": 3426.7, "loss, backward": 2839.8}),
    (2007, 44, {"loss, backward": 17_984.3}),
    # learned positions are no norm; B A of DoRA keeps A and what it makes
    (2007, 51, {"forward of a layer": 4963.0, "backward of a layer": 3405.0}),
    # a mask for all rows, in float32, held by recomputed layers
    (2007, 41, {"loss, backward": 3179.2, "backward of a layer": 441.6}),
    # float32, grouped keys and no mask: torch's own formula
    (2007, 42, {"loss, backward": 693.6, "backward of a layer": 471.1}),
    # gradients of trained weights within the layer at work, and that of a tied head until the embedding's comes
    (2007, 57, {"loss, backward": 2996.7, "backward of a layer": 3005.8}),
    (2007, 55, {"loss, backward": 10_710.9, "backward of a layer": 10_674.2}),
    (3007, 6, {"loss, backward": 8938.4, "backward of a layer": 8875.2, "forward of a layer": 8115.4}),
    # turned and other parts joined: another layout
    (1007, 76, {"loss, forward": 895.3, "backward of a layer": 767.1}),
    # experts' rows times their shares, which a softmax leaves in float32 and autocast's sigmoid does not
    (1007, 49, {"backward of a layer": 7515.1, "forward of a layer": 7198.1}),
    (7, 12, {"backward of a layer": 966.7}),
    # int8 keeps its input, which keeps what it can be made again of
    (1007, 54, {"loss, forward": 1249.7, "backward of a layer": 1233.4}),
    # the narrow keys and values of DeepSeek, normed, are kept: the product reads a view, which is not made again
    (7, 104, {"loss, forward": 1634.6, "backward of a layer": 1466.3, "forward of a layer": 1459.3}),
    (7, 5, {"backward of a layer": 5446.3}),
    (7, 51, {"backward of a layer": 464.1}),
    # GLM spreads sines and cosines anew in every layer; only a part of a head turns
    (7, 418, {"loss, forward": 97_144.3, "backward of a layer": 97_190.6, "forward of a layer": 97_080.1}),
    # OLMo's sines and cosines stay in float32
    (7, 382, {"loss, forward": 387.7, "backward of a layer": 589.4}),
    # one table of positions for each kind of layer that there is
    (7, 349, {"loss, forward": 1019.9, "backward of a layer": 5771.2}),
    # norms keep a number for each head
    (7, 446, {"forward of a layer": 97_401.6, "backward of a layer": 98_610.4}),
    # a gradient of all experts' rows waits for the recomputation; Mixtral has no window
    (7, 486, {"backward of a layer": 3518.6}),
    (7, 274, {"backward of a layer": 106_003.7}),
    # dropped inputs and their masks beside the output
    (7, 124, {"loss, forward": 10_604.0, "forward of a layer": 10_655.2, "backward of a layer": 10_497.6}),
    (7, 253, {"backward of a layer": 1938.0}),
    # DoRA under dropout: the input is dropped again before the product; GPT-2's frame holds what attention gave
    (7, 27, {"backward of a layer": 5289.5}),
    (7, 44, {"backward of a layer": 1499.9}),
    # the scales of a packed weight are gone when it is multiplied
    (7, 56, {"backward of a layer": 945.5}),
    # a trained head: its states beside its gradients
    (7, 469, {"backward of the head": 3596.6}),
]


@pytest.mark.parametrize(("seed", "index", "moments"), TRACED, ids=[f"{seed}-{index}" for seed, index, _ in TRACED])
def test_moments_are_those_of_the_trace(seed: int, index: int, moments: dict[str, float]) -> None:
    found = estimate(drawn(seed, index).question).phases
    assert {name: found[name] / 2**20 for name in moments} == pytest.approx(moments, rel=0.002)
