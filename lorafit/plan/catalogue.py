"""The catalogue of open models: hub ids with the part of their `config.json` that makes the shape.

The file is in order of renown: where a name fits several models (`70b`, `mistral-7b`), the first of them is taken and
the answer names the others.
"""

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from lorafit.errors import ModelError

# words of a hub id that do not change the shape
_SHAPELESS = {"meta", "instruct", "chat", "base", "hf", "it", "pt"}
_SIZE = re.compile(r"(\d+x)?\d+(\.\d+)?[bm]")
_FIRST = 6  # how many names a message lists


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue; `unconfirmed`: no second source was found for its sizes."""

    hub_id: str
    config: dict[str, object]
    unconfirmed: bool = False

    @property
    def words(self) -> list[str]:
        """The words of the name that tell it from others, in lower case."""
        return _words(self.hub_id)


@dataclass(frozen=True)
class Match:
    """What a typed name stands for."""

    entry: Entry
    alternatives: tuple[str, ...] = ()


@cache
def entries() -> tuple[Entry, ...]:
    """Read the catalogue, best known first."""
    rows = json.loads(Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8"))
    return tuple(Entry(row["id"], row["config"], row.get("unconfirmed", False)) for row in rows)


def find(name: str) -> Match:
    """Find a model by hub id, usual name or bare size.

    Raises:
        ModelError: no entry has this name, or a name without a size fits several.
    """
    found = _by_id(name) or _by_size(name) or _by_words(name)
    if not found:
        raise _unknown(name)
    return Match(found[0], tuple(entry.hub_id for entry in found[1:]))


def _by_id(name: str) -> list[Entry]:
    return [entry for entry in entries() if entry.hub_id.lower() == name.lower()]


def _by_size(name: str) -> list[Entry]:
    """A bare size: every model that has it in its name, best known first."""
    size = name.strip().lower()
    return [entry for entry in entries() if size in entry.words] if _SIZE.fullmatch(size) else []


def _by_words(name: str) -> list[Entry]:
    """The same words, however they are joined; failing that, a name that goes on from there after its size."""
    words = _words(name)
    joined = "".join(words)
    exact = [entry for entry in entries() if "".join(entry.words) == joined]
    if exact or not joined:
        return exact
    longer = [entry for entry in entries() if joined in _beginnings(entry.words)]
    sized = any(_SIZE.search(word) for word in words)
    if len(longer) > 1 and not sized:
        raise _ambiguous(name, longer)
    return longer


def _words(name: str) -> list[str]:
    last = name.strip().rstrip("/").rsplit("/", 1)[-1].lower()
    return [word for word in re.split(r"[-_\s]+", last) if word and word not in _SHAPELESS]


def _beginnings(words: list[str]) -> set[str]:
    return {"".join(words[:end]) for end in range(1, len(words))}


def _unknown(name: str) -> ModelError:
    known = {"-".join(entry.words): entry.hub_id for entry in entries()}
    near = get_close_matches("-".join(_words(name)), known, n=3, cutoff=0.6)
    ask = f"did you mean {' or '.join(known[each] for each in near)}? " if near else ""
    return ModelError(
        f"{name!r}: no such folder, and no model of this name in the catalogue",
        fix=f"{ask}give a hub id, a name like llama-3-8b, a size like 8b, or a folder with a config.json",
        code="E4-UNKNOWN-MODEL",
    )


def _ambiguous(name: str, found: list[Entry]) -> ModelError:
    listed = ", ".join(entry.hub_id for entry in found[:_FIRST]) + (", ..." if len(found) > _FIRST else "")
    return ModelError(
        f"{name!r} fits {len(found)} models of the catalogue", fix=f"say which: {listed}", code="E4-UNKNOWN-MODEL"
    )
