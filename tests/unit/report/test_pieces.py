"""What a person is shown of a token: all of it, and nothing that a terminal would obey."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from lorafit.report.pieces import BROKEN, pieces, printable, visible

SAFE = {"↵", "⇥", "·", "⟨", "⟩", "\n"}


def byte_decode(ids: list[int]) -> str:
    """Tokens are bytes: the hardest case, for a character is up to four of them."""
    return bytes(ids).decode(errors="replace")


@given(st.text())
def test_nothing_shown_drives_a_terminal(text: str) -> None:
    for shown in (visible(text), printable(text)):
        for character in shown:
            hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp")
            assert not hidden or character in "\n \u200c\u200d"


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"])))
def test_what_can_be_seen_stays(text: str) -> None:
    assert visible(text) == printable(text) == text


def test_escapes_are_spelled_out() -> None:
    assert visible("\x1b[31mred\x07") == "⟨U+001B⟩[31mred⟨U+0007⟩"
    assert visible("a b\tc\nd\r") == "a·b⇥c↵\nd⟨U+000D⟩"
    assert visible("\u202eevil\u00a0") == "⟨U+202E⟩evil⟨U+00A0⟩"
    assert visible("שלום") == "שלום"
    assert (visible("\u200d"), visible("👩\u200d👧")) == ("⟨U+200D⟩", "👩\u200d👧")


@given(st.text(min_size=1), st.data())
def test_pieces_add_up_to_the_row(text: str, data: st.DataObject) -> None:
    ids = list(text.encode(errors="ignore"))
    trained = data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    found = pieces(ids, trained, frozenset(), byte_decode, 0, len(ids))
    assert sum(piece.tokens for piece in found) == len(ids)
    if not any(trained):
        assert "".join(piece.text for piece in found) == byte_decode(ids)
    at = 0
    for piece in found:  # what is shown as trained is trained, to the token
        assert set(trained[at : at + piece.tokens]) == {piece.trained}
        at += piece.tokens


def test_a_character_is_one_piece_of_several_tokens() -> None:
    ids = list("aé😀".encode())
    found = pieces(ids, [True] * len(ids), frozenset(), byte_decode, 0, len(ids))
    assert [(piece.text, piece.tokens) for piece in found] == [("a", 1), ("é", 2), ("😀", 4)]
    cut = pieces(ids[:-1], [True] * 6, frozenset(), byte_decode, 0, 6)
    assert [piece.tokens for piece in cut] == [1, 2, 1, 1, 1]
    assert all(piece.text.endswith(BROKEN) for piece in cut[2:])


def test_special_tokens_stand_alone() -> None:
    found = pieces([0xC3, 65, 0xA9], [False] * 3, frozenset({65}), byte_decode, 0, 3)
    assert [piece.special for piece in found] == [False, True, False]


def test_a_part_of_a_row() -> None:
    ids = list(b"hello")
    found = pieces(ids, [False, False, True, True, False], frozenset(), byte_decode, 2, 4)
    assert [(piece.text, piece.trained) for piece in found] == [("l", True), ("l", True)]
