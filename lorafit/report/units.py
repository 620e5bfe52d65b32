"""Numbers as a person reads them."""


def gibibytes(count: int) -> str:
    """Give bytes as GiB, or MiB when there are few."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """Give seconds as 42s, 3m05s or 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def percent(part: float, whole: float) -> str:
    """Give a share, with more digits the smaller it is."""
    share = 100 * part / whole if whole else 0.0
    return f"{share:.3g}%"
