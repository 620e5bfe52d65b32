"""A batch says for every token which it is, where in its document, and whether it is trained."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from made import token_rows

from lorafit.data.batch import IGNORED, flat_batch
from lorafit.data.packing import Packs
from lorafit.data.token_rows import joined, offsets, ranges


def test_documents_are_laid_end_to_end() -> None:
    rows = token_rows([[1, 2, 3], [4, 5], [6, 7, 8, 9]], prompt=0)
    packs = Packs(np.array([2, 0, 1]), np.array([0, 1, 3]))
    batch = flat_batch(rows, packs, np.array([1, 0]))
    assert batch.input_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert batch.labels.tolist() == [IGNORED, 2, 3, IGNORED, 5, IGNORED, 7, 8, 9]
    assert batch.lengths == [3, 2, 4]
    assert batch.target_tokens == 6
    assert {batch.input_ids.dtype, batch.position_ids.dtype, batch.labels.dtype} == {np.dtype(np.int64)}


def test_nothing_chosen_is_an_empty_batch() -> None:
    batch = flat_batch(token_rows([[1, 2]]), Packs(np.array([0]), np.array([0, 1])), np.array([], np.int64))
    assert (batch.input_ids.tolist(), batch.lengths, batch.target_tokens) == ([], [], 0)


ROWS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=6), min_size=1, max_size=8)


@given(ROWS, st.integers(0, 3), st.data())
def test_a_batch_is_its_rows(ids: list[list[int]], prompt: int, data: st.DataObject) -> None:
    rows = token_rows(ids, prompt)
    chosen = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=6))
    packs = Packs(np.arange(len(ids)), np.arange(len(ids) + 1))
    batch = flat_batch(rows, packs, np.array(chosen, np.int64))
    assert batch.input_ids.tolist() == [token for row in chosen for token in ids[row]]
    expected = [token if place >= max(prompt, 1) else IGNORED for row in chosen for place, token in enumerate(ids[row])]
    assert batch.labels.tolist() == expected
    assert packs.tokens(rows, np.array(chosen, np.int64)) == len(batch.input_ids)
    assert packs.target_tokens(rows, np.array(chosen, np.int64)) == batch.target_tokens


@given(ROWS, ROWS, st.data())
def test_rows_are_kept_through_taking_and_joining(a: list[list[int]], b: list[list[int]], data: st.DataObject) -> None:
    both = joined([token_rows(a, file="a"), token_rows(b, file="b")])
    chosen = data.draw(st.lists(st.integers(0, len(a) + len(b) - 1), max_size=6))
    taken = both.take(np.array(chosen, np.int64))
    assert [taken.tokens[s:e].tolist() for s, e in zip(taken.starts, taken.starts[1:], strict=False)] == [
        (a + b)[row] for row in chosen
    ]
    places = [f"a:{n}" for n in range(1, len(a) + 1)] + [f"b:{n}" for n in range(1, len(b) + 1)]
    assert [taken.place(row) for row in range(len(taken))] == [places[row] for row in chosen]


def test_hashes_tell_rows_apart_by_tokens_and_targets() -> None:
    hashes = token_rows([[1, 2], [1, 2], [1, 3], [12]]).hashes()
    assert hashes[0] == hashes[1]
    assert len(set(hashes.tolist())) == 3
    assert token_rows([[1, 2]], prompt=2).hashes()[0] != hashes[0]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5))))
def test_ranges(spans: list[tuple[int, int]]) -> None:
    starts, lengths = (np.array([span[n] for span in spans], dtype=np.int64) for n in (0, 1))
    assert ranges(starts, lengths).tolist() == [start + n for start, length in spans for n in range(length)]
    assert offsets(lengths).tolist() == [sum(lengths[:n]) for n in range(len(spans) + 1)]
