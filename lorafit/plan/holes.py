"""What torch holds on a card beyond the peak: pages that are not full, and places of what came and went."""

from collections.abc import Iterable

from lorafit.plan.question import Component, MemoryQuestion

# Blocks lie in segments that grow by 2 MiB for small ones and by 20 MiB for large ones, and of each kind the last page
# is not full (`lorafit/plan/allocator.py`). A tiny model has hardly more than these.
PAGES_BYTES = 22 * 2**20
# Replayed through a model of torch's caching allocator, 12 steps of real models, 0.5B to 70B, with expandable segments,
# which a run of lorafit turns on, left holes beside those pages of 0.1 to 0.5 of what comes and goes, the median 0.16
# (`scripts/vram_holes.py` prints each beside the estimate); without them steps of plain transformers left 0.3.
SHARE_EXPANDABLE, SHARE = 0.16, 0.3


def holes(question: MemoryQuestion, parts: Iterable[Component]) -> int:
    """Give the bytes, about. Where all weights are trained, the embedding's gradient finds no place but its own."""
    passing = sum(part.bytes for part in parts if part.passing)
    share = SHARE if question.stack or question.is_full else SHARE_EXPANDABLE
    own = question.trained_bytes * question.shape.vocab_size * question.shape.hidden_size if question.is_full else 0
    return round(share * passing) + PAGES_BYTES + own
