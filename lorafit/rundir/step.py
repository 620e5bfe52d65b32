"""The numbers of one optimizer step, as metrics.jsonl keeps them."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class StepRecord:
    """One line of metrics.jsonl; the loss is in nats per target token of the global batch."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    target_tokens: int
    tokens_per_second: float
    peak_bytes: int

    def as_json(self) -> dict[str, object]:
        """Give the line as an object."""
        return asdict(self)
