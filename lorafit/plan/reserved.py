"""What torch holds on a card through a run: the traced births and deaths, replayed through its allocator."""

from collections.abc import Iterable
from typing import NamedTuple

from lorafit.plan.allocator import CardFull, Event, replay
from lorafit.plan.memory import CONTEXT_BYTES
from lorafit.plan.units import Unit
from lorafit.plan.workspace import HANDLES, WORKSPACE_BYTES


class Reserved(NamedTuple):
    """Bytes with expandable segments, as a run of lorafit sets them, and as torch is otherwise."""

    expandable_bytes: int
    default_bytes: int
    fits_expandable: bool | None  # on the card that was named, after giving back what is free; None without a card
    fits_default: bool | None

    @property
    def on_card_bytes(self) -> int:
        """What nvidia-smi would show."""
        return self.expandable_bytes + CONTEXT_BYTES

    def as_json(self) -> dict[str, object]:
        """Give the facts for a program."""
        return {
            "reserved_bytes": self.expandable_bytes,
            "reserved_without_expandable_segments_bytes": self.default_bytes,
            "context_bytes": CONTEXT_BYTES,
            "on_card_bytes": self.on_card_bytes,
            "fits": self.fits_expandable,
            "fits_without_expandable_segments": self.fits_default,
        }

    def as_text(self, unit: Unit) -> str:
        """Give the facts for a person."""
        said = (
            f"Replayed through torch's allocator: {unit.of(self.expandable_bytes)} {unit.name} reserved "
            f"({unit.of(self.default_bytes)} without expandable segments), "
            f"{unit.of(self.on_card_bytes)} on the card with a CUDA context of {unit.of(CONTEXT_BYTES)}"
        )
        if self.fits_expandable is None:
            return said
        if not self.fits_expandable:
            return f"{said}: out of memory on that card"
        return said if self.fits_default else f"{said}: out of memory on that card without expandable segments"


def workspaces(total_bytes: int = WORKSPACE_BYTES) -> list[Event]:
    """Give those of cuBLAS, one a handle: they come with the first products and stay; no other number is below 0."""
    return [(-1 - handle, total_bytes // HANDLES) for handle in range(HANDLES)]


def reserve(events: Iterable[Event], capacity_bytes: int | None, workspace_bytes: int = WORKSPACE_BYTES) -> Reserved:
    """Replay both ways; `capacity_bytes` is the card's, of which the context takes its part."""
    history = [*workspaces(workspace_bytes), *events]
    return Reserved(
        expandable_bytes=replay(history, expandable=True).peak_reserved,
        default_bytes=replay(history).peak_reserved,
        fits_expandable=_fits(history, capacity_bytes, expandable=True),
        fits_default=_fits(history, capacity_bytes, expandable=False),
    )


def _fits(history: list[Event], capacity_bytes: int | None, *, expandable: bool) -> bool | None:
    if capacity_bytes is None:
        return None
    try:
        replay(history, capacity_bytes - CONTEXT_BYTES, expandable=expandable)
    except CardFull:
        return False
    return True
