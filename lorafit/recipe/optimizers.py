"""The optimizers: AdamW with 32- or 8-bit moments, in device memory or in paged memory."""

from typing import Literal, NamedTuple, get_args

OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]

# bitsandbytes keeps the moments of a smaller tensor in 32 bits, and pages none below the second size
SMALLEST_8BIT_VALUES = 4096
SMALLEST_PAGED_VALUES = 100_000
BLOCK_VALUES = 256  # moments that share one float32 scale


class Optimizer(NamedTuple):
    """What a name of the recipe stands for."""

    bits: int
    paged: bool

    @property
    def takes_flat(self) -> bool:
        """All trained tensors may lie in one: no block of a tensor shares a scale, and none is paged by its size."""
        return self.bits == 32 and not self.paged

    def state_bytes(self, values: int) -> int:
        """Bytes of both moments of one trained tensor of so many values."""
        narrow = self.bits == 8 and values >= SMALLEST_8BIT_VALUES
        return 2 * values + self.scale_bytes(values) if narrow else 8 * values

    def scale_bytes(self, values: int) -> int:
        """Of these, the float32 scales of 8-bit moments."""
        narrow = self.bits == 8 and values >= SMALLEST_8BIT_VALUES
        return 8 * -(-values // BLOCK_VALUES) if narrow else 0


OPTIMIZERS: dict[OptimizerName, Optimizer] = {
    name: Optimizer(bits=8 if name.endswith("8bit") else 32, paged=name.startswith("paged"))
    for name in get_args(OptimizerName)
}
