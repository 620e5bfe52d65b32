"""The search for what fits, against its definition."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lorafit.plan.advice import largest_count


@settings(max_examples=200)
@given(
    least=st.integers(0, 10**9), each=st.integers(1, 10**7), curve=st.integers(0, 1000), flat=st.integers(0, 10**9),
    capacity=st.integers(0, 3 * 10**10), limit=st.sampled_from([1, 100, 2**16]),
)  # fmt: skip
def test_the_most_that_fits_is_on_the_edge_however_bytes_grow(
    least: int, each: int, curve: int, flat: int, capacity: int, limit: int
) -> None:
    looks: list[int] = []

    def bytes_of(count: int) -> int:
        looks.append(count)
        return max(least + each * count + curve * count**2, flat)

    found = largest_count(bytes_of, capacity, limit)
    assert len(looks) <= 25
    assert found == 0 or bytes_of(found) <= capacity
    assert found == limit or bytes_of(found + 1) > capacity
