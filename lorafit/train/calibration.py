"""The estimate beside what was measured, written down by every run."""

import torch

from lorafit.model.memory import measured_peaks
from lorafit.plan.question import Estimate
from lorafit.plan.units import signed_percent
from lorafit.report.units import gibibytes
from lorafit.train.record import Record


def record_memory(record: Record, expected: Estimate | None, device: torch.device) -> None:
    """Write the measured peak beside the estimate into the run, and tell the person."""
    facts = compare(expected, measured_peaks(device))
    record.write_json(record.folder.memory_report, facts)
    record.event("memory", facts)
    text = as_text(facts)
    if text:
        record.say(text)


def compare(expected: Estimate | None, measured: dict[str, int]) -> dict[str, object]:
    """Put both side by side; `difference` is the estimate's, as a share of what was allocated on a card.

    A process on the CPU holds its libraries too, and all that it once freed: it is measured, and not compared.
    """
    allocated = measured.get("allocated_bytes")
    difference = expected.peak_bytes / allocated - 1 if expected and allocated else None
    return {"estimated": _as_json(expected) if expected else None, "measured": measured, "difference": difference}


def as_text(facts: dict[str, object]) -> str:
    """Say how far the estimate was off; nothing where it is not compared."""
    measured, difference = facts["measured"], facts["difference"]
    if not isinstance(difference, float) or not isinstance(measured, dict):
        return ""
    return (
        f"memory: {gibibytes(measured['allocated_bytes'])} allocated at the peak, "
        f"the estimate was {signed_percent(difference)}; "
        f"{gibibytes(measured['reserved_bytes'])} reserved, {gibibytes(measured['on_card_bytes'])} on the card"
    )


def _as_json(expected: Estimate) -> dict[str, object]:
    return {
        "peak_bytes": expected.peak_bytes,
        "low_bytes": expected.low_bytes,
        "high_bytes": expected.high_bytes,
        "peak_phase": expected.peak_phase,
        "on_card_bytes": expected.on_card_bytes,
    }
