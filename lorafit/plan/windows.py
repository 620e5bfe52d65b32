"""Sliding windows: which layers see only so many tokens back, and the masks of kernels that know no window."""

from typing import NamedTuple

from lorafit.plan.config_keys import ConfigKeys


class Sliding(NamedTuple):
    """How a family's config.json says which layers have a window."""

    usual: int | None = None  # the width where config.json has no `sliding_window`; null there means none
    full_every: int | None = None  # the last of every so many layers sees all, where `layer_types` does not say
    flag: str | None = None  # a key that turns windows on, off by default

    def widths(self, keys: ConfigKeys, count: int) -> tuple[int | None, ...]:
        """Give each layer's window; None sees all."""
        width = keys.optional("sliding_window") if keys.has("sliding_window") else self.usual
        if width is None or (self.flag and not keys.flag(self.flag)):
            return (None,) * count
        kinds = keys.listed("layer_types")
        if kinds is not None:
            return tuple(width if kind == "sliding_attention" else None for kind in kinds)
        every = self.full_every
        return tuple(None if every and (index + 1) % every == 0 else width for index in range(count))


def mask_cells(row: int, window: int | None) -> list[int]:
    """Count the cells of each mask that lorafit cuts a row's window into: so many queries by what they may see."""
    if window is None or window >= row:
        return []
    starts = range(0, row, window)
    return [
        (min(start + window, row) - start) * (min(start + window, row) - max(0, start - window + 1)) for start in starts
    ]
