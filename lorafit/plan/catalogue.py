"""The catalogue of open models: hub ids with the part of their `config.json` that makes the shape.

The file is in order of renown: where a name fits several models (`70b`, `mistral-7b`), the first of them is taken and
the answer names the others. `stored` is `quant_method` of `quantization_config` in the published config.json, where the
weights come quantised. `max_position_embeddings` stands where litgpt gives it too, as published:
https://github.com/Lightning-AI/litgpt/blob/0006c973aa7d6ace293e2a5fedaf1f8f804f960c/litgpt/config.py
"""

import json
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lorafit.errors import ModelError

# words of a hub id that do not change the shape
_SHAPELESS = {"meta", "instruct", "chat", "base", "hf", "it", "pt"}
# words that say how weights were packed, of a checkpoint that lorafit does not train on
_PACKED = {"4bit", "8bit", "awq", "bnb", "exl2", "fp8", "gguf", "gptq", "int4", "int8", "nf4", "quantized", "w4a16"}
_SIZE = re.compile(r"(\d+x)?\d+(\.\d+)?[bmt]")
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([bmt])")
_BEFORE_SIZE = re.compile(r"_(?=(\d+x)?\d+(\.\d+)?[bmt]([-_\s]|$))", re.IGNORECASE)  # llama3_8b, of no point
_UNITS = {"m": 10**6, "b": 10**9, "t": 10**12}
_NEAR = 0.05  # between the size that a name says and the model's own: 14B are 14.66 billion
_FIRST = 6  # how many names a message lists


class Entry(NamedTuple):
    """One model of the catalogue; `unconfirmed`: no second source was found for its sizes."""

    hub_id: str
    config: dict[str, object]
    unconfirmed: bool = False
    stored: str = ""  # how the published weights are quantised; "" where they are not

    @property
    def words(self) -> list[str]:
        """The words of the name that tell it from others, in lower case."""
        return _words(self.hub_id)


class Match(NamedTuple):
    """What a typed name stands for."""

    entry: Entry
    alternatives: tuple[str, ...] = ()


@cache
def entries() -> tuple[Entry, ...]:
    """Read the catalogue, best known first."""
    rows = json.loads(Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8"))
    return tuple(Entry(row["id"], row["config"], row.get("unconfirmed", False), row.get("stored", "")) for row in rows)


def find(name: str, values_of: Callable[[Entry], int]) -> Match:
    """Find a model by hub id, usual name or bare size; `values_of` counts a model's parameters.

    Raises:
        ModelError: no entry has this name, or a name without a size fits several.
    """
    other = _BEFORE_SIZE.sub("-", name)
    found = _found(name, values_of) or (_found(other, values_of) if other != name else [])
    if not found:
        raise _unknown(name, values_of)
    return Match(found[0], tuple(entry.hub_id for entry in found[1:]))


def _found(name: str, values_of: Callable[[Entry], int]) -> list[Entry]:
    return _by_id(name) or _by_size(name) or _by_words(name) or _by_count(name, values_of)


def _by_id(name: str) -> list[Entry]:
    return [entry for entry in entries() if entry.hub_id.lower() == name.lower()]


def _by_size(name: str) -> list[Entry]:
    """A bare size: every model that has it in its name, best known first; 500m is 0.5b."""
    size = name.strip().lower()
    if not _SIZE.fullmatch(size):
        return []
    count = _count(size)
    return [entry for entry in entries() if any(word == size or 0 < count == _count(word) for word in entry.words)]


def _by_words(name: str) -> list[Entry]:
    """The same words, however they are joined; failing that, a name that goes on, or that says more in between."""
    words = _words(name)
    joined = "".join(words)
    exact = [entry for entry in entries() if "".join(entry.words) == joined]
    if exact or not joined:
        return exact
    longer = [entry for entry in entries() if joined in _beginnings(entry.words)]
    longer = longer or _saying_more(words, lambda entry: entry.words)
    longer = longer or _saying_more(_parts(words), lambda entry: _parts(entry.words))
    sized = any(_SIZE.search(word) for word in words)
    if len(longer) > 1 and not sized:
        raise _ambiguous(name, longer)
    return longer


def _by_count(name: str, values_of: Callable[[Entry], int]) -> list[Entry]:
    """A size that no name has: `671b`, or with it all that a name has (`phi-4-14b`), of models that are so large."""
    words = _words(name)
    sizes = [word for word in words if _COUNT.fullmatch(word)]
    rest = _parts([word for word in words if word not in sizes])
    if len(sizes) != 1 or (rest and not any(part.isalpha() for part in rest)):
        return []
    asked = [entry for entry in entries() if not rest or _within(rest, _parts(entry.words))]
    near = [entry for entry in asked if abs(values_of(entry) - _count(sizes[0])) <= _NEAR * values_of(entry)]
    rounded = [entry for entry in near if _rounds_to(values_of(entry), sizes[0])]
    return rounded + [entry for entry in near if entry not in rounded and (not rest or _is_unsized(entry))]


def _rounds_to(values: int, size: str) -> bool:
    """Tell whether a count is this size to the digits that it is written with: 32.53 billion are 33b."""
    digits = len(size[:-1].partition(".")[2])
    return f"{values / _UNITS[size[-1]]:.{digits}f}" == size[:-1]


def _is_unsized(entry: Entry) -> bool:
    """Tell whether a name says no size."""
    return not any(map(_SIZE.fullmatch, entry.words))


def _saying_more(words: Sequence[str], words_of: Callable[[Entry], list[str]]) -> list[Entry]:
    """Models with all of these words in this order, and others between them."""
    sized = len(words) > 1 and any(map(_SIZE.fullmatch, words))  # 30b-a3b
    if not sized and not any(re.match("[a-z]{2}", word) for word in words):
        return []
    return [entry for entry in entries() if _within(words, words_of(entry))]


def _within(words: Sequence[str], others: Sequence[str]) -> bool:
    left = iter(others)
    return all(any(_same(word, other) for other in left) for word in words)


def _same(typed: str, word: str) -> bool:
    """A version may lack its point: `qwen25`."""
    return typed == word or (typed.isdigit() and len(typed) > 1 and typed == word.replace(".", ""))


def _count(size: str) -> int:
    """The number that a size stands for; 0 for none, or for a product such as 8x7b."""
    found = _COUNT.fullmatch(size)
    return round(float(found[1][:20]) * _UNITS[found[2]]) if found else 0


def _words(name: str) -> list[str]:
    last = name.strip().rstrip("/").rsplit("/", 1)[-1].lower()
    last = re.sub(r"(?<=\d)_(?=\d)", ".", last)  # phi-1_5
    return [word for word in re.split(r"[-_\s:]+", last) if word and word not in _SHAPELESS]


def _parts(words: Sequence[str]) -> list[str]:
    """Words cut where a number follows letters: `olmo2` is `olmo`, `2`."""
    return [part for word in words for part in re.split(r"(?<=[a-z])(?=\d)", word)]


def _beginnings(words: list[str]) -> set[str]:
    return {"".join(words[:end]) for end in range(1, len(words))}


def _unknown(name: str, values_of: Callable[[Entry], int]) -> ModelError:
    what = f"{name[:100]!r}: no such folder, and no model of this name in the catalogue"
    plain = "-".join(word for word in _words(name) if word not in _PACKED)
    if plain != "-".join(_words(name)) and plain:
        what = f"{what}, which has no checkpoints that are quantised already"
    fix = "give a hub id, a name like llama-3-8b, a size like 8b, or a folder with a config.json"
    ask = _asked_back(name, plain, values_of)
    return ModelError(what, fix=f"did you mean {ask}? {fix}" if ask else fix, code="E4-UNKNOWN-MODEL")


def _asked_back(name: str, plain: str, values_of: Callable[[Entry], int]) -> str:
    """The nearest names, or for a size the models next to it."""
    if size := _COUNT.fullmatch(name.strip().lower()):
        count = _count(size[0])
        near = sorted((abs(values_of(entry) - count), entry.hub_id, values_of(entry)) for entry in entries())[:3]
        return " or ".join(f"{hub_id} ({values / 10**9:.3g}b)" for _, hub_id, values in near)
    if name.strip().isdecimal():
        return _as_size(int(name.strip()[:20]))
    known = {"-".join(entry.words): entry.hub_id for entry in entries()}
    return " or ".join(known[each] for each in get_close_matches(plain, known, n=3, cutoff=0.6))


def _as_size(count: int) -> str:
    """A bare number as a size: `70` is meant in billions, 70000000000 is the count itself."""
    return f"{count / _UNITS['b'] if count >= _UNITS['m'] else count:.3g}b"


def _ambiguous(name: str, found: list[Entry]) -> ModelError:
    listed = ", ".join(entry.hub_id for entry in found[:_FIRST]) + (", ..." if len(found) > _FIRST else "")
    return ModelError(
        f"{name!r} fits {len(found)} models of the catalogue", fix=f"say which: {listed}", code="E4-UNKNOWN-MODEL"
    )
