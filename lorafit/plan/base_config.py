"""What a base's `config.json` says beside its shape: how many positions it was made for, how its weights are stored."""

import math
from collections.abc import Iterator, Mapping
from typing import NoReturn

from lorafit.errors import ModelError
from lorafit.plan.families import FAMILIES

POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")
ROPE_KEYS = ("rope_parameters", "rope_scaling")  # of transformers 5, and of before
_NEW = "are new to it, and it may answer badly"
LEARNED = {"gpt_neo", "opt"}  # families that transformers has a class of, with a learned table, beside ours


def positions(config: Mapping[str, object]) -> int | None:
    """Give the most tokens in a row that the base was made for, its scaled rotary positions counted; None: not said."""
    text = config.get("text_config")
    parts = [config, *([text] if isinstance(text, Mapping) else [])]
    said = [part[key] for part in parts for key in POSITION_KEYS if _is_count(part.get(key))]
    if not said:
        return None
    own = said[0]
    assert isinstance(own, int)
    return max(own, *(_scaled(own, rope) for part in parts for rope in _ropes(part)), own)


def are_learned(config: Mapping[str, object]) -> bool:
    """Tell whether a position beyond the last has no embedding at all, so that no such token can be read."""
    kind = str(config.get("model_type"))
    family = FAMILIES.get(kind)
    return kind in LEARNED or (family is not None and family.positions is not None)


def readable(config: Mapping[str, object]) -> int | None:
    """Give the most tokens in a row that the base can read at all; None: any number, well or badly."""
    return positions(config) if are_learned(config) else None


def beyond_positions(length: int, config: Mapping[str, object]) -> str:
    """Say that rows of so many tokens are longer than the base was made for; "" where they are not."""
    most = positions(config)
    if most is None or length <= most:
        return ""
    if are_learned(config):
        return f"data.max_length is {length:,}, and the model can read no row beyond its {most:,} positions"
    return f"data.max_length is {length:,}, and the model was made for {most:,} positions: longer rows {_NEW}"


def rows_beyond(longest: int, config: Mapping[str, object]) -> str:
    """Say which rows up to so many tokens are longer than the base was made for; "" where none is."""
    most = positions(config)
    if most is None or longest <= most:
        return ""
    fate = "cannot be read by the model: it has no more positions" if are_learned(config) else _NEW
    return f"Rows beyond {most:,} tokens {fate}"


def stored_as(config: Mapping[str, object]) -> str | None:
    """Name the way in which the weights were quantised before they were saved; None where they were not."""
    block = config.get("quantization_config")
    if not isinstance(block, Mapping):
        return None
    bits = 4 if block.get("load_in_4bit") else 8 if block.get("load_in_8bit") else block.get("bits")
    kind = str(block.get("quant_method") or "an unnamed way")[:40]
    return f"{kind}, {bits} bits" if _is_count(bits) else kind


def refuse_stored_quantised(config: Mapping[str, object], where: str) -> None:
    """Raise ModelError for a checkpoint of quantised weights: lorafit quantises a base itself, and counts on it."""
    if stored := stored_as(config):
        refuse_stored_as(stored, where)


def refuse_stored_as(stored: str, where: str) -> NoReturn:
    """Raise ModelError for weights that are stored in this way."""
    raise ModelError(
        f"the weights of this checkpoint are quantised already ({stored}), and lorafit quantises a base itself",
        where=where,
        fix="give the checkpoint in 16 bits that it was made from, and quantization.kind: nf4 (--method qlora) to "
        "hold it in 4 bits",
        code="E4-QUANTIZED",
    )


def counted_unquantised(name: str, stored: str) -> str:
    """Say that weights published quantised are counted as what they were made from; "" where they are not."""
    if not stored:
        return ""
    return (
        f"{name} is published with its weights in {stored}, and `train` refuses a checkpoint that is quantised already "
        "(E4-QUANTIZED): counted is a copy of it in 16 bits"
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _ropes(part: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """The settings of rotary positions; some models have one for each kind of layer."""
    for key in ROPE_KEYS:
        block = part.get(key)
        if isinstance(block, Mapping):
            yield block
            yield from (inner for inner in block.values() if isinstance(inner, Mapping))


def _scaled(own: int, rope: Mapping[str, object]) -> int:
    """Positions are stretched by a factor, from those of before where they are named, else from the model's own.

    `original_max_position_embeddings`: Qwen 2.5 with YaRN names it, and leaves its own number as it was.
    """
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor):
        return own
    start = original if isinstance(original, int) and _is_count(original) else own
    return math.floor(start * min(max(factor, 1.0), 1e6))
