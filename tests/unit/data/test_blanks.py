"""Every text of a conversation gets a name of its own, and can be put back."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lorafit.data.blanks import BLANK, blank_out, message_of

TEXT = st.text(max_size=20)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"function": st.fixed_dictionaries({"name": TEXT, "arguments": st.dictionaries(TEXT, TEXT | st.integers())})}
    ),
    max_size=2,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": TEXT | st.none()},
        optional={"reasoning_content": TEXT, "tool_calls": CALLS},
    ),
    max_size=5,
)


def put_back(value: Any, blanks: dict[str, str]) -> Any:
    if isinstance(value, str):
        return BLANK.sub(lambda found: blanks[found.group()], value)
    if isinstance(value, dict):
        return {key: put_back(item, blanks) for key, item in value.items()}
    return [put_back(item, blanks) for item in value] if isinstance(value, list) else value


@given(MESSAGES)
def test_putting_the_texts_back_gives_the_conversation(messages: list[dict[str, Any]]) -> None:
    blanked = blank_out(messages)
    assert put_back(blanked.messages, {name: blank.text for name, blank in blanked.blanks.items()}) == messages
    assert all(message_of(name) == blank.message for name, blank in blanked.blanks.items())


def test_thinking_tags_stay_and_only_the_answer_must_appear() -> None:
    content = "<think>\nhm\n</think>\n\nyes"
    blanked = blank_out([{"role": "user", "content": content}, {"role": "assistant", "content": content}])
    asked, answered = (message["content"] for message in blanked.messages)
    assert BLANK.fullmatch(asked)
    assert BLANK.sub("_", answered) == "<think>_</think>_"
    assert [(blank.text, blank.must_appear) for blank in blanked.blanks.values()] == [
        (content, True),
        ("\nhm\n", False),
        ("\n\nyes", True),
    ]


def test_conversations_of_one_shape_share_a_key() -> None:
    def key(*texts: str) -> str:
        return blank_out([{"role": "user", "content": text} for text in texts]).key(None)

    assert key("a", "b") == key("c", "d")
    assert key("a", "b") != key("a")
    assert key("a") != key("")
