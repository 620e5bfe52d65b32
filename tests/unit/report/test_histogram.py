"""Every row is in one bar, and max_length is where it belongs."""

from hypothesis import given
from hypothesis import strategies as st

from lorafit.report.histogram import bars, counted, edges

LENGTHS = st.lists(st.integers(1, 100_000), min_size=1)


def test_two_classes_to_a_doubling() -> None:
    assert edges(100) == [8, 12, 16, 24, 32, 48, 64, 96, 128]
    assert edges(1) == [8]


@given(LENGTHS)
def test_every_row_is_counted_once_where_it_belongs(lengths: list[int]) -> None:
    classes = counted(lengths)
    assert sum(count for _, count in classes) == len(lengths)
    below = 0
    for end, count in classes:
        below += count
        assert below == sum(length <= end for length in lengths)


@given(LENGTHS, st.integers(8, 200_000), st.integers(1, 60))
def test_max_length_is_marked_once_and_bars_fit(lengths: list[int], max_length: int, width: int) -> None:
    lines = bars(lengths, max_length, width)
    (mark,) = [number for number, line in enumerate(lines) if "max_length" in line]
    ends = [int(line.split()[1].replace(",", "")) for number, line in enumerate(lines) if number != mark]
    assert all(end <= max_length for end in ends[:mark])
    assert all(end > max_length for end in ends[mark:])
    drawn = [sum(line.count(block) for block in "█▏▎▍▌▋▊▉") for line in lines]
    assert max(drawn) <= width


def test_no_rows_no_bars() -> None:
    assert bars([], 64, 40) == []
