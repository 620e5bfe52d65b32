"""The allocator's model: rules of torch's own, and what must hold for any order of births and deaths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.plan.allocator import MIB, CachingAllocator, CardFull, replay

SIZES = st.one_of(st.integers(1, 4096), st.integers(1, 3 * MIB), st.integers(MIB, 64 * MIB))


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Births and deaths in any order, each tensor dying after it was born, if it does."""
    events: list[tuple[int, int]] = []
    live: list[int] = []
    for number, size in enumerate(draw(st.lists(SIZES, min_size=1, max_size=60))):
        while live and draw(st.booleans()):
            events.append((live.pop(draw(st.integers(0, len(live) - 1))), 0))
        events.append((number, size))
        live.append(number)
    return events


@pytest.mark.parametrize("expandable", [False, True])
@given(events=histories())
def test_it_holds_at_least_what_lives_and_segments_only(expandable: bool, events: list[tuple[int, int]]) -> None:
    sizes: dict[int, int] = {}
    most = 0
    for number, size in events:
        if size:
            sizes[number] = -(-size // 512) * 512
        else:
            del sizes[number]
        most = max(most, sum(sizes.values()))
    found = replay(events, expandable=expandable)
    assert most <= found.peak_allocated <= found.peak_reserved
    assert found.peak_reserved % (2 * MIB) == 0


@pytest.mark.parametrize("expandable", [False, True])
@given(events=histories())
def test_what_is_freed_joins_again_and_can_all_be_given_back(expandable: bool, events: list[tuple[int, int]]) -> None:
    found = replay(events, expandable=expandable)
    for number in list(found._taken):
        found.release(number)
    found._give_back()
    assert (found.allocated, found.reserved) == (0, 0)


@pytest.mark.parametrize("expandable", [False, True])
@given(events=histories())
def test_a_card_just_large_enough_holds_the_same(expandable: bool, events: list[tuple[int, int]]) -> None:
    most = replay(events, expandable=expandable).peak_reserved
    assert replay(events, most, expandable=expandable).peak_reserved == most
    with pytest.raises(CardFull):
        replay(events, max(size for _, size in events) - 1, expandable=expandable)


def test_the_sizes_of_segments() -> None:
    for size, segment in ((1, 2), (MIB, 2), (MIB + 1, 20), (10 * MIB - 512, 20), (10 * MIB, 10), (11 * MIB, 12)):
        allocator = CachingAllocator()
        allocator.allocate(0, size)
        assert allocator.reserved == segment * MIB


def test_a_full_card_takes_back_free_segments() -> None:
    allocator = CachingAllocator(40 * MIB)
    allocator.allocate(0, 30 * MIB)
    allocator.release(0)
    allocator.allocate(1, 36 * MIB)  # does not fit into the free 30, nor beside it
    assert allocator.reserved == 36 * MIB
    assert allocator.peak_reserved == 36 * MIB


def test_a_hole_that_is_too_small_costs_a_segment_of_its_own() -> None:
    events = [(0, 16 * MIB), (1, 16 * MIB), (0, 0), (2, 18 * MIB)]
    assert replay(events).peak_reserved == 50 * MIB


def test_an_expandable_segment_grows_behind_what_is_free_at_its_end() -> None:
    events = [(0, 16 * MIB), (1, 16 * MIB), (0, 0), (2, 18 * MIB), (2, 0), (3, 30 * MIB)]
    assert replay(events[:4], expandable=True).peak_reserved == 60 * MIB
    assert replay(events, expandable=True).peak_reserved == 80 * MIB


def test_a_full_card_takes_back_free_pages() -> None:
    events = [(0, 60 * MIB), (1, 20 * MIB), (0, 0)]
    assert replay([*events, (2, 70 * MIB)], expandable=True).peak_reserved == 160 * MIB
    assert replay([*events, (2, 70 * MIB)], 120 * MIB, expandable=True).peak_reserved == 120 * MIB
