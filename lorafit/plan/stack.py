"""The program that trains: lorafit itself, or plain transformers and PEFT in a version, as far as memory goes."""

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from lorafit.errors import RecipeError
from lorafit.recipe.suggest import nearest

Upcast = Literal["none", "norms", "all"]
Kernel = Literal["varlen", "sdpa", "flash_attention_2", "eager"]

NEWEST = (5, 23)
OLDEST = (4, 38)  # models of before keep a causal mask and a cache that this does not know
_ENGINE = re.compile(r"([a-z]+)(?:@(\d{1,6}(?:\.\d{1,6})*))?")


@dataclass(frozen=True)
class Stack:
    """How plain transformers trains. lorafit's own loop is `None` wherever a stack is asked for.

    `upcast` is what `prepare_model_for_kbit_training` turns to float32 under a quantised base: nothing, the norms (as
    TRL leaves it), or norms, embeddings and head. `amp`: the Trainer runs with `bf16: true`.
    """

    version: tuple[int, ...] = NEWEST
    upcast: Upcast = "none"
    amp: bool = True
    kernel: Kernel = "sdpa"

    @property
    def name(self) -> str:
        """As it is written after `--engine`."""
        return f"transformers@{'.'.join(str(part) for part in self.version)}"

    @property
    def loss_forward_bytes(self) -> int:
        """Bytes per token and word of the vocabulary at the height of the loss, logits in 16 bits.

        Read in the wheels of 4.45.2, 4.46.3, 4.48.3, 4.49.0 and 4.51.3: from 4.46 on the 16-bit logits outlive their
        float32 copy (2 more), from 4.49 on labels are shifted in the logits' place (4 fewer).
        """
        if self.version < (4, 46):
            return 12
        return 14 if self.version < (4, 49) else 10

    @property
    def fused_optimizer(self) -> bool:
        """AdamW updates in place; before, a list of temporaries as large as the trained weights came and went."""
        return self.version >= (5,)


def find_stack(engine: str, upcast: str | None, kernel: Kernel) -> Stack | None:
    """Read `--engine` and `--upcast`; None stands for lorafit.

    Raises:
        RecipeError: an unknown engine, a version that is not modelled, or an upcast without transformers.
    """
    found = _ENGINE.fullmatch(engine.strip().lower())
    if found is None or found[1] not in ("lorafit", "transformers"):
        raise RecipeError(
            f"unknown engine {engine[:40]!r}", where="--engine", fix="lorafit, transformers, or transformers@4.48.1",
            code="E2-USAGE",
        )  # fmt: skip
    if found[1] == "lorafit":
        if upcast is not None:
            raise RecipeError("lorafit turns nothing to float32", where="--upcast", fix="leave it out", code="E2-USAGE")
        return None
    version = tuple(int(part) for part in found[2].split(".")) if found[2] else NEWEST
    if version < OLDEST:
        raise RecipeError(
            f"transformers before {OLDEST[0]}.{OLDEST[1]} is not modelled", where="--engine", code="E2-USAGE"
        )
    return Stack(version, _upcast(upcast), kernel=kernel)


def _upcast(text: str | None) -> Upcast:
    if text is None:
        return "none"
    if text not in get_args(Upcast):
        near = nearest(text, get_args(Upcast))
        ask = f"did you mean {near}? " if near else ""
        raise RecipeError(
            f"unknown upcast {text!r}", where="--upcast", fix=f"{ask}known: none, norms, all", code="E2-USAGE"
        )
    return cast("Upcast", text)
