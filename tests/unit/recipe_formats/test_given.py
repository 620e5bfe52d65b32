"""Rows that are tokens or preferences: what is taken as it is, and what is not taken at all."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.recipe.formats import Conversation, PlainText, Preference, RowFault, TokenSequence, parse

ASKED = {"role": "user", "content": "a"}
LIKED, OTHER = {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}


@given(st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), min_size=2))
def test_tokens_are_taken_as_they_are(pairs: list[tuple[int, bool]]) -> None:
    ids = [number for number, _ in pairs]
    labels = [number if trained else -100 for number, trained in pairs]
    if all(label == -100 for label in labels[1:]):
        with pytest.raises(RowFault, match="no token"):
            parse("tokens", {"input_ids": ids, "labels": labels})
        return
    row = parse("tokens", {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)})
    assert row == TokenSequence(tuple(ids), tuple(labels))


BAD_TOKENS: list[tuple[dict[str, Any], str]] = [
    ({"labels": [1]}, "E3-ROW-MISSING"),
    ({"input_ids": [1, 2]}, "E3-ROW-MISSING"),
    ({"input_ids": None, "labels": [1]}, "E3-ROW-NULL"),
    ({"input_ids": "1 2", "labels": [1, 2]}, "E3-ROW-TYPE"),
    ({"input_ids": [], "labels": []}, "E3-ROW-EMPTY"),
    ({"input_ids": [1, 2.0], "labels": [1, 2]}, "E3-ROW-TYPE"),
    ({"input_ids": [1, True], "labels": [1, 1]}, "E3-ROW-TYPE"),
    ({"input_ids": [1, "2"], "labels": [1, 2]}, "E3-ROW-TYPE"),
    ({"input_ids": [1, 2], "labels": [1, None]}, "E3-ROW-TYPE"),
    ({"input_ids": [1, 2, 3], "labels": [1, 2]}, "E3-ROW-LABELS"),
    ({"input_ids": [1, -2], "labels": [1, -2]}, "E3-ROW-VOCABULARY"),
    ({"input_ids": [1, 2], "labels": [2, 3]}, "E3-ROW-LABELS"),  # shifted by one
    ({"input_ids": [1, 2], "labels": [1, -1]}, "E3-ROW-LABELS"),
    ({"input_ids": [1, 2], "labels": [1, -100]}, "E3-ROW-NO-TARGET"),
    ({"input_ids": [1, 2], "labels": [1, 2], "attention_mask": [1, 0]}, "E3-ROW-LABELS"),
    ({"input_ids": [1, 2], "labels": [1, 2], "attention_mask": [1]}, "E3-ROW-LABELS"),
]


@pytest.mark.parametrize(("row", "code"), BAD_TOKENS)
def test_tokens_that_cannot_be_trained(row: dict[str, Any], code: str) -> None:
    with pytest.raises(RowFault) as caught:
        parse("tokens", row)
    assert caught.value.code == code


def both(row: dict[str, Any]) -> tuple[list[str | None], list[str | None]]:
    found = parse("preference", row)
    assert isinstance(found, Preference)
    return said(found.chosen), said(found.rejected)


def said(answer: Conversation | PlainText | None) -> list[str | None]:
    if answer is None:
        return []
    if isinstance(answer, PlainText):
        return [answer.prompt, answer.completion]
    return [message.content for message in answer.messages]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": [ASKED], "chosen": [LIKED], "rejected": [OTHER]},
        {"prompt": [ASKED], "chosen": LIKED, "rejected": OTHER},
        {"chosen": [ASKED, LIKED], "rejected": [ASKED, OTHER]},
        {
            "conversations": [{"from": "human", "value": "a"}],
            "chosen": {"from": "gpt", "value": "b"},
            "rejected": {"from": "gpt", "value": "c"},
        },
    ],
)
def test_pairs(row: dict[str, Any]) -> None:
    assert both(row) == (["a", "b"], ["a", "c"])


def test_an_answer_that_was_liked_or_not() -> None:
    assert both({"messages": [ASKED, LIKED], "label": True}) == (["a", "b"], [])
    assert both({"messages": [ASKED, LIKED], "label": False}) == ([], ["a", "b"])
    assert both({"prompt": "a", "completion": "b", "label": True}) == (["a", "b"], [])


BAD_PREFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "a", "chosen": "b"}, "E3-ROW-MISSING"),
    ({"chosen": "b", "rejected": "c"}, "E3-ROW-TYPE"),
    ({"prompt": "a", "chosen": "b", "rejected": None}, "E3-ROW-NULL"),
    ({"prompt": "a", "chosen": "b", "rejected": 3}, "E3-ROW-TYPE"),
    ({"prompt": "a", "chosen": "b", "rejected": " "}, "E3-ROW-EMPTY"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "E3-ROW-SAME"),
    ({"prompt": "a", "chosen": [LIKED], "rejected": [OTHER]}, "E3-ROW-TYPE"),
    ({"prompt": [ASKED], "chosen": [ASKED], "rejected": [OTHER]}, "E3-ROW-ORDER"),
    ({"prompt": [ASKED], "messages": [ASKED], "chosen": [LIKED], "rejected": [OTHER]}, "E3-ROW-TYPE"),
    ({"messages": [ASKED, LIKED], "label": 1}, "E3-ROW-TYPE"),
    ({"messages": [ASKED, LIKED], "label": None}, "E3-ROW-NULL"),
    ({"messages": [ASKED], "label": True}, "E3-ROW-ORDER"),
    ({"label": True}, "E3-ROW-MISSING"),
]


@pytest.mark.parametrize(("row", "code"), BAD_PREFERENCES)
def test_preferences_that_are_none(row: dict[str, Any], code: str) -> None:
    with pytest.raises(RowFault) as caught:
        parse("preference", row)
    assert caught.value.code == code
