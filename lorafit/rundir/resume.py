"""What of a recipe may change when a run goes on, and what may not."""

import json
from collections.abc import Iterator
from typing import Any

from lorafit.errors import Fault, ResumeRefused

# Keys (with all below them) that leave the result as it is: where it is written, how often it is looked at
# and saved, how the memory is shared out. What is not named here is refused: a new key is safe by itself.
MAY_CHANGE = (
    "output",
    "training.eval_every",
    "training.save_every",
    "training.keep_checkpoints",
    "training.micro_batch_size",  # the global batch stays: the same up to the order of a sum
    "training.gradient_checkpointing",
    "training.sharding",
    "quantization.keep_unpacked",
)

Changes = dict[str, tuple[Any, Any]]
_ABSENT = "(not there)"


def changed_keys(old: object, new: object) -> Changes:
    """Compare two trees of blocks and lists: dotted key -> (old value, new value)."""
    olds, news = dict(_leaves(old)), dict(_leaves(new))
    pairs = {key: (olds.get(key, _ABSENT), news.get(key, _ABSENT)) for key in {**olds, **news}}
    # 1 is not 1.0 and not true in a recipe
    return {key: (was, now) for key, (was, now) in pairs.items() if json.dumps(was) != json.dumps(now)}


def check_recipe(old: object, new: object, where: str) -> Changes:
    """Give the changes that a resume goes along with; raise ResumeRefused with a line for each other."""
    changes = changed_keys(old, new)
    refuse({key: change for key, change in changes.items() if not _may_change(key)}, where, "E10-RECIPE")
    return changes


def refuse(changes: Changes, where: str, code: str) -> None:
    """Raise ResumeRefused with a line for each change, if there is any."""
    fix = "change it back, or start anew with --fresh or another --out"
    if changes:
        raise ResumeRefused([Fault(line, where, fix, code) for line in describe(changes)])


def describe(changes: Changes) -> list[str]:
    """Say each change in a line, for a person."""
    return [f"{key} changed: {_shown(pair)}" for key, pair in changes.items()]


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Walk to every value that is neither a block nor a list (an empty one counts as a value)."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{key}[{index}]")
    else:
        yield key, value


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith((f"{allowed}.", f"{allowed}[")) for allowed in MAY_CHANGE)


def _shown(change: tuple[Any, Any]) -> str:
    return " -> ".join(value if value == _ABSENT else json.dumps(value) for value in change)
