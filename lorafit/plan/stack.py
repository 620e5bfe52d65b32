"""The program that trains: lorafit itself, or plain transformers and PEFT in a version, as far as memory goes."""

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, cast, get_args

from lorafit.errors import RecipeError
from lorafit.recipe.suggest import nearest

Upcast = Literal["none", "norms", "all"]
Kernel = Literal["varlen", "sdpa", "flash_attention_2", "eager"]
Loss = Literal["full", "fused"]

NEWEST = (5, 23)
LAST = {4: 57, 5: None}  # minor version of each major one; None: more may come
OLDEST = (4, 38)  # models of before keep a causal mask and a cache that this does not know
_ENGINE = re.compile(r"([a-z]+)(?:@(\d{1,6}(?:\.\d{1,6})*))?")


class Stack(NamedTuple):
    """How plain transformers trains. lorafit's own loop is `None` wherever a stack is asked for.

    `upcast` is what `prepare_model_for_kbit_training` turns to float32 under a quantised base: nothing, the norms (as
    TRL leaves it), or norms, embeddings and head. `amp`: the Trainer runs with `bf16: true`. `loss`: all logits at
    once, or made and dropped a chunk at a time (Liger, cut cross-entropy). `cache`: `use_cache` was left on.
    `narrow_adapters`: adapters in the base's 16 bits (`autocast_adapter_dtype=False`).
    """

    version: tuple[int, ...] = NEWEST
    upcast: Upcast = "none"
    amp: bool = True
    kernel: Kernel = "sdpa"
    padded: bool = False  # rows are padded to one length, and a mask says where they end
    loss: Loss = "full"
    cache: bool = False
    narrow_adapters: bool = False
    keeps_packed_inputs: bool = False  # bitsandbytes before 0.43: outside autograd's sight, as MatMul4Bit did then
    steps_in_backward: bool = False  # each weight is updated as its gradient comes, which none of them outlives
    keeps_outputs: bool = False  # a loop that holds the model's outputs through the backward, as the Trainer does not

    @property
    def name(self) -> str:
        """As it is written after `--engine`."""
        return f"transformers@{_dotted(self.version)}"

    def loss_forward_bytes(self, narrow_before: tuple[int, ...] | None = None) -> int:
        """Bytes per token and word of the vocabulary at the height of the loss, logits in 16 bits.

        `narrow_before` is the version up to which a model had a loss of its own, of logits and their shifted copy in 16
        bits, which autocast alone brings to float32 (gpt_bigcode, gpt2, gpt_neox and falcon in the wheel of 4.48.1).

        Read in the wheels of 4.45.2, 4.46.3, 4.48.3, 4.49.0 and 4.51.3: from 4.46 on the 16-bit logits outlive their
        float32 copy (2 more), from 4.49 on labels are shifted in the logits' place (4 fewer).
        """
        if narrow_before and self.version < narrow_before:
            return 12 if self.amp else 6
        if self.version < (4, 46):
            return 12
        return 14 if self.version < (4, 49) else 10

    def loss_backward_bytes(self, narrow_before: tuple[int, ...] | None = None) -> int:
        """The same in the backward: log-softmax, its gradient and that of the logits."""
        return 6 if narrow_before and self.version < narrow_before and not self.amp else 12

    @property
    def lists_experts(self) -> bool:
        """Experts are a list of linears, which are quantised and adapted; from version 5 on they are stacked matrices.

        Read in the wheels of 4.48.1 and 4.57.6.
        """
        return self.version < (5,)

    @property
    def reenters(self) -> bool:
        """Recomputation is reentrant by default: a first forward without a graph, whose parts hold nothing."""
        return self.version < (5,)

    @property
    def groups_keys(self) -> bool:
        """Keys and values go to torch's kernel as they are, where no mask keeps it from the one that takes them so."""
        return self.version >= (5,) and not self.padded

    @property
    def stores_presents(self) -> bool:
        """A model that makes keys and values in one projection hands them on even where layers are recomputed.

        gpt_bigcode, read in the wheels of 4.48.1, 4.53.3 and 4.55.4: others, and it from then on, switch the cache off.
        """
        return self.cache and self.version < (4, 55)

    @property
    def fused_optimizer(self) -> bool:
        """AdamW updates in place; before, a list of temporaries as large as the trained weights came and went."""
        return self.version >= (5,)


# what a run of transformers may do otherwise than its Trainer by default
HABITS: dict[str, Callable[[Stack], Stack]] = {
    "no-amp": lambda stack: stack._replace(amp=False),
    "use-cache": lambda stack: stack._replace(cache=True),
    "padded": lambda stack: stack._replace(padded=True),
    "narrow-adapters": lambda stack: stack._replace(narrow_adapters=True),
    "old-bitsandbytes": lambda stack: stack._replace(keeps_packed_inputs=True),
    "fused-loss": lambda stack: stack._replace(loss="fused"),
}


def find_stack(engine: str, upcast: str | None, kernel: Kernel, habits: Sequence[str] = ()) -> Stack | None:
    """Read `--engine`, `--upcast` and the `HABITS` that were asked for; None stands for lorafit.

    Raises:
        RecipeError: an unknown engine, a version that is not modelled, or an upcast or habit without transformers.
    """
    stack = _stack(engine, upcast, kernel)
    for habit in habits:
        if stack is None:
            raise RecipeError(
                f"--habit {habit} tells how transformers trains", where="--engine", fix="add --engine transformers",
                code="E2-USAGE",
            )  # fmt: skip
        stack = _habit(habit)(stack)
    return stack


def _habit(name: str) -> Callable[[Stack], Stack]:
    if name not in HABITS:
        near = nearest(name, HABITS)
        ask = f"did you mean {near}? " if near else ""
        raise RecipeError(
            f"unknown habit {name[:40]!r}", where="--habit", fix=f"{ask}known: {', '.join(HABITS)}", code="E2-USAGE"
        )
    return HABITS[name]


def _stack(engine: str, upcast: str | None, kernel: Kernel) -> Stack | None:
    found = _ENGINE.fullmatch(engine.strip().lower())
    if found is None or found[1] not in ("lorafit", "transformers"):
        raise RecipeError(
            f"unknown engine {engine[:40]!r}", where="--engine", fix="lorafit, transformers, or transformers@4.48.1",
            code="E2-USAGE",
        )  # fmt: skip
    if found[1] == "lorafit":
        if found[2]:
            raise RecipeError(
                "lorafit answers for itself as it is, in no other version", where="--engine", fix="write lorafit",
                code="E2-USAGE",
            )  # fmt: skip
        if upcast is not None:
            raise RecipeError("lorafit turns nothing to float32", where="--upcast", fix="leave it out", code="E2-USAGE")
        return None
    return Stack(_version(found[2]) if found[2] else NEWEST, _upcast(upcast), kernel=kernel)


def _version(text: str) -> tuple[int, ...]:
    """Read a version of transformers that there is, or may yet be of the newest major one."""
    version = tuple(int(part) for part in text.split("."))
    last = LAST.get(version[0], 0)
    if version < OLDEST or version[0] not in LAST or (last is not None and version[1:2] > (last,)):
        raise RecipeError(
            f"transformers {text[:20]} is not modelled", where="--engine", code="E2-USAGE",
            fix=f"give {_dotted(OLDEST)} to 4.{LAST[4]}, or 5.0 to {_dotted(NEWEST)}, the newest that was read",
        )  # fmt: skip
    return version


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


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
