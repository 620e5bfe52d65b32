"""Which linears of a model get an adapter.

Attention or MLP is told from the module a linear sits in (`layers.3.self_attn.q_proj`), not from lists of leaf names,
so a family that is new tomorrow needs nothing here.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

from lorafit.errors import Fault, RecipeError
from lorafit.recipe.adapters import RegexTargets, TargetModules
from lorafit.recipe.regexes import why_not
from lorafit.recipe.suggest import nearest

Part = Literal["attention", "mlp", "mixer"]

_NUMBER = re.compile(r"(?:^|\.)\d+\.")  # of a layer: outside the numbered ones nothing is adapted
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MIXER = re.compile(r"mixer|mamba|ssm|recurrent", re.IGNORECASE)  # token mixers without attention
# a router picks experts: trained alone it starves some of them
_ROUTER = re.compile(r"router|gate|shared_expert_gate")
# embedding and output head, as families name them
_ENDS = {"embed_in", "embed_out", "embed_tokens", "embedding", "lm_head", "output", "word_embeddings", "wpe", "wte"}
# parts of a model that reads more than text: a run on text never reaches them
_NOT_TEXT = re.compile(r"vision|visual|image|audio|speech|multi_modal|multimodal", re.IGNORECASE)


# Model types whose experts were linears in transformers 4 and are stacked matrices in 5. For these PEFT 0.21 turns the
# names below into the stacks wherever it meets them, dense layers and shared experts included: an adapter on such a
# linear could be neither made nor loaded. https://github.com/huggingface/peft (utils/transformers_weight_conversion.py)
_TAKES_FOR_STACKS = ("deepseek_v2", "deepseek_v3", "glm4_moe", "glm4_moe_lite", "olmoe", "qwen3_moe", "qwen3_next")
_NAMES_OF_STACKS = ("gate_proj", "up_proj", "down_proj")
# and in these its own `all-linear` means the stacks and the routers too (`_resolve_string_target_modules`, same file)
ADAPTED_STACKS = (*_TAKES_FOR_STACKS, "minimax_m2", "mixtral")


def taken_for_stacks(name: str, model_type: str | None) -> bool:
    """Tell whether PEFT would adapt the stacked experts in place of this linear."""
    return model_type in _TAKES_FOR_STACKS and name.rpartition(".")[2] in _NAMES_OF_STACKS


def part_of(name: str) -> Part | None:
    """Tell where in a decoder layer a linear sits; None outside the layers, in a router, or in a vision tower."""
    number = _NUMBER.search(name)
    return _part_of(name[: number.start()], name[number.end() :]) if number else None


@lru_cache(maxsize=8192)
def _part_of(layers: str, linear: str) -> Part | None:
    """The same of a linear in any of these layers."""
    inside = linear.split(".")
    if any(_ROUTER.fullmatch(part) for part in inside) or _NOT_TEXT.search(f"{layers}.{linear}"):
        return None
    # the leaf is no witness: `attention_gate` may sit in an MLP; OPT's `fc1` hangs on the layer itself
    if any(_ATTENTION.search(part) for part in inside[:-1]):
        return "attention"
    return "mixer" if any(_MIXER.search(part) for part in inside[:-1]) else "mlp"


def match_targets(spec: TargetModules, linear_names: Sequence[str], model_type: str | None = None) -> list[str]:
    """Give the full dotted names that the recipe's `target_modules` selects, in the model's order.

    `linear_names` are the full dotted names of every nn.Linear of the model, of which some model types have some that
    PEFT cannot adapt: keywords leave those out.

    Raises:
        RecipeError: a keyword, a name or the expression selects nothing; all faults at once.
    """
    adaptable = [name for name in linear_names if not taken_for_stacks(name, model_type)]
    try:
        return _matching(spec, adaptable)
    except RecipeError:
        if len(adaptable) < len(linear_names) and _matching(spec, linear_names):
            raise _stacks(spec) from None
        raise


def _stacks(spec: TargetModules) -> RecipeError:
    return RecipeError(
        f"{spec!r}: PEFT takes {', '.join(_NAMES_OF_STACKS)} of this model for its stacked experts",
        where="adapter.target_modules",
        fix="target_modules: all-linear, which leaves them out, or attention",
        code="E2-TARGETS",
    )


def _matching(spec: TargetModules, linear_names: Sequence[str]) -> list[str]:
    if isinstance(spec, RegexTargets):
        return _by_regex(spec.regex, linear_names)
    if isinstance(spec, str):
        return _by_part(spec, linear_names)
    return _by_names(spec, linear_names)


def leaf_counts(names: Iterable[str]) -> dict[str, int]:
    """Count linears by the last part of their names: `{"q_proj": 32, ...}`, in order of appearance."""
    counts: dict[str, int] = {}
    for name in names:
        leaf = name.rsplit(".", 1)[-1]
        counts[leaf] = counts.get(leaf, 0) + 1
    return counts


def _by_part(keyword: str, linear_names: Sequence[str]) -> list[str]:
    parts = {name: part_of(name) for name in linear_names}
    chosen = [name for name, part in parts.items() if part and keyword in ("all-linear", part)]
    if not chosen:
        raise RecipeError([_nothing(f"{keyword!r} selects no linear layer of this model", keyword, linear_names)])
    return chosen


def _by_regex(regex: str, linear_names: Sequence[str]) -> list[str]:
    reason = why_not(regex)
    if reason:
        raise RecipeError(
            f"{regex!r}: {reason}",
            where="adapter.target_modules",
            fix="name layers by their last parts: [q_proj, v_proj], or all-linear",
            code="E2-TARGETS",
        )
    chosen = [name for name in linear_names if re.fullmatch(regex, name)]
    if not chosen:
        raise RecipeError([_nothing(f"the expression {regex!r} matches no linear layer in full", "", linear_names)])
    return chosen


def _by_names(entries: Sequence[str], linear_names: Sequence[str]) -> list[str]:
    hits = {entry: {name for name in linear_names if _is_named(name, entry)} for entry in entries}
    faults = [_nothing(_why_none(entry), entry, linear_names) for entry, names in hits.items() if not names]
    if not hits:
        faults = [_nothing("the list is empty", "", linear_names)]
    if faults:
        raise RecipeError(faults)
    chosen = set().union(*hits.values())
    return [name for name in linear_names if name in chosen]


def _why_none(entry: str) -> str:
    if entry.rpartition(".")[2] in _ENDS:
        return f"{entry!r} stands outside the layers: embedding and output head get no adapter"
    return f"{entry!r} names no linear layer of this model"


def _is_named(name: str, entry: str) -> bool:
    """An entry is a full name or its last parts, cut at a dot."""
    return name == entry or name.endswith(f".{entry}")


def _nothing(what: str, entry: str, linear_names: Sequence[str]) -> Fault:
    leaves = leaf_counts(linear_names)
    near = nearest(entry.rsplit(".", 1)[-1], leaves) if entry else None
    ask = f"did you mean {near!r}? " if near else ""
    has = ", ".join(f"{leaf} ({count})" for leaf, count in leaves.items()) or "none"
    return Fault(what, "adapter.target_modules", f"{ask}this model's linear layers: {has}", "E2-TARGETS")
