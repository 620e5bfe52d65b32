"""Cards by name or capacity, with the memory that a program can really use."""

import csv
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lorafit.errors import RecipeError
from lorafit.plan.workspace import HANDLES, WORKSPACE_BYTES

MIB, GIB = 2**20, 2**30
# a card sold with 24 GB offers a program about 23.5 GiB: firmware and driver keep the rest
USABLE_SHARE = 0.98
LARGEST_GB = 512  # twice what any card of the catalogue has
_CAPACITY = re.compile(r"(\d+(?:\.\d+)?)\s*([mgt]?)(?:i?b)?")
# of a GiB; a megabyte is taken for 1024th part, as nvidia-smi prints it, and promises no more than there is
_PARTS = {"m": 1 / 1024, "": 1, "g": 1, "t": 1024}
_SOLD_AS = re.compile(r"(?:[-_\s]*(\d+)\s*gb|[-_\s]+(\d+))$")  # of `a100-80` the unit is plain
_MAKERS = re.compile(r"\b(nvidia|amd|geforce|tesla|quadro|instinct|sxm\d?|pcie)\b")


class Card(NamedTuple):
    """A card, and the bytes that torch reports as its total."""

    name: str
    capacity_bytes: int
    bfloat16: bool = True  # cards before Ampere do not compute in it
    tflops: float | None = None  # dense products in bfloat16 by the maker's data sheet, in 10^12 a second
    gigabytes_per_second: float = 0  # of its memory, by the same sheet; known wherever the speed of products is
    workspace_bytes: int = WORKSPACE_BYTES  # that torch takes there for products; of a bare capacity the usual one


@cache
def cards() -> dict[str, Card]:
    """Read the catalogue: usable memory as torch reports it on such a card."""
    with Path(__file__).with_name("cards.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {row["name"]: _card(row) for row in rows}


def _card(row: dict[str, str]) -> Card:
    speed, memory_speed = row["bfloat16_tflops"], row["gigabytes_per_second"]
    workspace = row["blas_workspace_mib"]  # of a handle, where it is not the usual one
    return Card(
        name=row["name"],
        capacity_bytes=int(float(row["usable_gib"]) * GIB),
        bfloat16=row["bfloat16"] == "yes",
        tflops=float(speed) if speed else None,
        gigabytes_per_second=float(memory_speed or 0),
        workspace_bytes=HANDLES * int(workspace) * MIB if workspace else WORKSPACE_BYTES,
    )


def find_card(text: str) -> Card:
    """Find a card by name (`rtx-4090`, `A100 80GB`) or bare capacity (`24GB`, `80`).

    Raises:
        RecipeError: neither; it tells the nearest names.
    """
    word = text.strip().lower()
    by_plain = {_plain(name): card for name, card in cards().items()}
    plain = _plain(_MAKERS.sub(" ", word))
    # `4090` for rtx-4090; `h100-80gb` for h100; `a100` for the smaller of its kinds, so that a promise holds on both
    names = (f"{before}{plain}{after}" for after in ("", "gb") for before in ("", "rtx"))
    found = next((by_plain[each] for each in names if each in by_plain), None)
    found = found or _sold_as(word, by_plain) or _smallest(plain)
    found = found or _by_capacity(word)
    if found is None:
        raise _unknown(text, plain, by_plain)
    return found


def _by_capacity(word: str) -> Card | None:
    found = _CAPACITY.fullmatch(word)
    if found is None:
        return None
    size = float(found[1]) * _PARTS[found[2]]
    if size > LARGEST_GB:
        raise _no_capacity(word, f"at most {LARGEST_GB}GB, and --gpus N for several cards")
    if size < 1:
        raise _no_capacity(word, "at least 1GB: --gpu 24GB")
    return Card(f"{size:g} GB card", int(size * USABLE_SHARE * GIB))


def cards_that_hold(needed_bytes: int, count: int = 3) -> list[Card]:
    """Name the smallest cards of the catalogue with so many usable bytes."""
    holding = [card for card in cards().values() if card.bfloat16 and card.capacity_bytes >= needed_bytes]
    return sorted(holding, key=lambda card: card.capacity_bytes)[:count]


def _sold_as(word: str, by_plain: dict[str, Card]) -> Card | None:
    """A name with its capacity written out, which must be true."""
    size = _SOLD_AS.search(word)
    card = by_plain.get(_plain(_MAKERS.sub(" ", word[: size.start()]))) if size else None
    sold = int(size[1] or size[2]) * GIB if size else 0
    return card if card and sold and 0.85 < card.capacity_bytes / sold < 1.02 else None


def _smallest(plain: str) -> Card | None:
    kinds = [card for name, card in cards().items() if re.fullmatch(rf"{re.escape(plain)}\d+gb", _plain(name))]
    return min(kinds, key=lambda card: card.capacity_bytes, default=None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name)


def _no_capacity(word: str, limit: str) -> RecipeError:
    return RecipeError(
        f"no card has {word[:40]!r}",
        where="--gpu",
        fix=f"give one card's capacity, {limit}",
        code="E2-CARD",
    )


def _unknown(text: str, plain: str, known: dict[str, Card]) -> RecipeError:
    near = [known[each].name for each in get_close_matches(plain, known, n=3, cutoff=0.5)]
    ask = f"did you mean {' or '.join(near)}? " if near else ""
    return RecipeError(
        f"{text!r} is no card that lorafit knows",
        where="--gpu",
        fix=f"{ask}a capacity works too: --gpu 24GB",
        code="E2-CARD",
    )
