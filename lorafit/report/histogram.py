"""How long rows are, as bars."""

from collections.abc import Sequence

BLOCKS = " ▏▎▍▌▋▊▉"


def edges(longest: int) -> list[int]:
    """Give the upper ends of the classes, two to each doubling: 8, 12, 16, 24, ... up to `longest`."""
    found = [8]
    while found[-1] < longest:
        last = found[-1]
        found.append(last * 3 // 2 if last & (last - 1) == 0 else last * 4 // 3)
    return found


def counted(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Count rows by length: (upper end, rows), from the first class that has any to the last."""
    if not len(lengths):
        return []
    ends = edges(max(lengths))
    counts = dict.fromkeys(ends, 0)
    for length in lengths:
        counts[next(end for end in ends if length <= end)] += 1
    first = ends.index(next(end for end in ends if counts[end]))
    return [(end, counts[end]) for end in ends[first:]]


def bars(lengths: Sequence[int], max_length: int, width: int) -> list[str]:
    """Draw a bar of at most `width` cells for each class, and a line where `max_length` lies."""
    classes = counted(lengths)
    if not classes:
        return []
    digits = max(len(f"{end:,}") for end, _ in [*classes, (max_length, 0)])
    most = max(count for _, count in classes)
    mark = f"{'':{digits}}   ┈┈ max_length {max_length:,}"
    lines: list[str] = []
    marked = False
    for end, count in classes:
        if end > max_length and not marked:
            lines, marked = [*lines, mark], True
        lines.append(f"≤ {end:>{digits},} {_bar(count / most * width)} {count:,}")
    return lines if marked else [*lines, mark]


def _bar(cells: float) -> str:
    eighths = max(1, round(cells * 8)) if cells else 0
    return "█" * (eighths // 8) + BLOCKS[eighths % 8].strip()
