"""What each layout takes, and the fault of every row it does not take."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorafit.errors import DataError
from lorafit.recipe.formats import Conversation, Example, FormatName, PlainText, RowFault, detect, parse

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "yo"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def turns(row: Example) -> list[tuple[str, str | None]]:
    assert isinstance(row, Conversation)
    return [(message.role, message.content) for message in row.messages]


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"messages"}, "chat"),
        ({"conversations", "id"}, "chat"),
        ({"messages", "tools", "setup_sql"}, "chat"),
        ({"instruction", "input", "output"}, "alpaca"),
        ({"prompt", "completion"}, "prompt_completion"),
        ({"text", "url"}, "text"),
        ({"text", "label"}, "classification"),
        ({"text", "category"}, "classification"),
        ({"text", "label", "domain"}, "classification"),
        ({"sentence1", "sentence2", "label"}, "classification"),
        ({"premise", "hypothesis", "label", "idx"}, "classification"),
        ({"prompt", "chosen", "rejected"}, "preference"),
        ({"conversations", "chosen", "rejected"}, "preference"),
        ({"input_ids", "labels", "attention_mask"}, "tokens"),
    ],
)
def test_detect(columns: set[str], name: str) -> None:
    assert detect(columns) == name


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"instruction", "output", "text"}, ["alpaca", "text"]),
        ({"messages", "prompt", "completion"}, ["chat", "prompt_completion"]),
        ({"question", "answer"}, ['"answer", "question"', "no format"]),
        ({"text", "labels"}, ['"labels"', "text"]),
        ({"messages", "label"}, ["chat", "preference"]),
        ({"instruction", "output", "label"}, ['"label"', "alpaca"]),
        ({"prompt", "completion", "chosen", "rejected"}, ["prompt_completion", "preference"]),
        (set(), ["no format"]),
    ],
)
def test_doubt_is_an_error_that_names_what_it_saw(columns: set[str], named: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        detect(columns, "rows.jsonl")
    assert caught.value.faults[0].where == "rows.jsonl"
    assert all(word in str(caught.value) for word in named)


def test_chat() -> None:
    row = parse("chat", {"messages": [{"role": "system", "content": ""}, USER, {**ANSWER, "train": True}], "id": 3})
    assert turns(row) == [("system", ""), ("user", "hi"), ("assistant", "yo")]
    assert isinstance(row, Conversation)
    assert row.messages[-1].train is True
    assert row.tools is None


def test_sharegpt_with_its_system_and_tool_roles() -> None:
    row = parse(
        "chat",
        {
            "system": "be brief",
            "conversations": [
                {"from": "human", "value": "hi"},
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "2"},
                {"from": "gpt", "value": "two"},
            ],
            "tools": '[{"name": "f"}]',
        },
    )
    assert [role for role, _ in turns(row)] == ["system", "user", "assistant", "tool", "assistant"]
    assert isinstance(row, Conversation)
    assert row.messages[2].extras == {"tool_calls": [CALL]}
    assert row.tools == ({"name": "f"},)


def test_alpaca_puts_the_input_after_the_instruction_and_the_history_first() -> None:
    row = parse(
        "alpaca",
        {"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": [["a", "b"]]},
    )
    assert turns(row) == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "Add.\n\n1 2"),
        ("assistant", "3"),
    ]
    assert turns(parse("alpaca", {"instruction": "Add.", "input": "", "output": "3"}))[0] == ("user", "Add.")


def test_prompt_completion_of_texts_and_of_messages() -> None:
    assert parse("prompt_completion", {"prompt": "a:", "completion": " b"}) == PlainText("a:", " b")
    row = parse("prompt_completion", {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]})
    assert isinstance(row, Conversation)
    assert [message.train for message in row.messages] == [False, False, False, None]


def test_text() -> None:
    assert parse("text", {"text": " a\n"}) == PlainText("", " a\n")


def chat(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


BAD: list[tuple[FormatName, dict[str, Any], str, str]] = [
    ("text", {"txt": "a"}, "E3-ROW-MISSING", 'field "text" is missing'),
    ("text", {"text": None}, "E3-ROW-NULL", 'field "text" is null'),
    ("text", {"text": 3}, "E3-ROW-TYPE", "a number"),
    ("text", {"text": True}, "E3-ROW-TYPE", "true or false"),
    ("text", {"text": ["a"]}, "E3-ROW-TYPE", "a list"),
    ("text", {"text": ""}, "E3-ROW-EMPTY", "empty"),
    ("text", {"text": " \n"}, "E3-ROW-EMPTY", "empty"),
    ("text", {"text": "a\0b"}, "E3-ROW-NUL", "U+0000"),
    ("text", {"text": "a\ud800b"}, "E3-ROW-SURROGATE", "surrogate"),
    ("prompt_completion", {"prompt": "", "completion": "a"}, "E3-ROW-EMPTY", '"prompt"'),
    ("prompt_completion", {"prompt": "a", "completion": " "}, "E3-ROW-EMPTY", '"completion"'),
    ("prompt_completion", {"prompt": [USER], "completion": "a"}, "E3-ROW-TYPE", "both"),
    ("alpaca", {"instruction": "a", "input": None, "output": "b"}, "E3-ROW-NULL", '"input"'),
    ("alpaca", {"instruction": "a", "output": ""}, "E3-ROW-EMPTY", '"output"'),
    ("alpaca", {"instruction": "a", "output": "b", "history": "c"}, "E3-ROW-TYPE", "list of pairs"),
    ("alpaca", {"instruction": "a", "output": "b", "history": [["c"]]}, "E3-ROW-TYPE", "pairs"),
    ("chat", {"rows": []}, "E3-ROW-MISSING", "neither"),
    ("chat", {"messages": [USER, ANSWER], "conversations": []}, "E3-ROW-MISSING", "both"),
    ("chat", {"messages": None}, "E3-ROW-NULL", "null"),
    ("chat", {"messages": "hi"}, "E3-ROW-TYPE", "expected a list"),
    ("chat", {"messages": ["hi"]}, "E3-ROW-TYPE", "expected objects"),
    ("chat", chat(), "E3-ROW-EMPTY", "no messages"),
    ("chat", chat(USER), "E3-ROW-ORDER", "no answer"),
    ("chat", chat(ANSWER), "E3-ROW-ORDER", "starts with the assistant"),
    ("chat", chat(USER, USER, ANSWER), "E3-ROW-ORDER", "user follows the user's turn"),
    ("chat", chat(USER, ANSWER, ANSWER), "E3-ROW-ORDER", "assistant follows"),
    ("chat", chat(USER, {"role": "system", "content": "x"}, ANSWER), "E3-ROW-ORDER", "system follows"),
    ("chat", chat(USER, {"role": "tool", "content": "x"}, ANSWER), "E3-ROW-ORDER", "tool follows"),
    ("chat", chat(USER, {**ANSWER, "tool_calls": [CALL]}, USER, ANSWER), "E3-ROW-ORDER", "a tool call"),
    ("chat", chat(USER, {"role": "bot", "content": "x"}), "E3-ROW-ROLE", '"bot"'),
    ("chat", chat(USER, {"role": None, "content": "x"}), "E3-ROW-NULL", '"role"'),
    ("chat", chat({"content": "x"}, ANSWER), "E3-ROW-MISSING", '"role"'),
    ("chat", chat(USER, {"role": "assistant"}), "E3-ROW-MISSING", '"content"'),
    ("chat", chat(USER, {"role": "assistant", "content": None}), "E3-ROW-NULL", "null"),
    ("chat", chat(USER, {"role": "assistant", "content": " "}), "E3-ROW-EMPTY", "assistant's turn is empty"),
    ("chat", chat({"role": "user", "content": ""}, ANSWER), "E3-ROW-EMPTY", "user's turn is empty"),
    ("chat", chat(USER, {"role": "assistant", "content": [{"type": "text"}]}), "E3-ROW-MISSING", "part"),
    ("chat", chat(USER, {"role": "assistant", "content": {"a": 1}}), "E3-ROW-TYPE", "an object"),
    ("chat", chat(USER, {**ANSWER, "train": "yes"}), "E3-ROW-TYPE", "true or false"),
    ("chat", chat({**USER, "train": True}, ANSWER), "E3-ROW-TRAIN", "only answers"),
    ("chat", chat(USER, {**ANSWER, "train": False}), "E3-ROW-NO-TARGET", "train: false"),
    ("chat", {**chat(USER, ANSWER), "tools": "{"}, "E3-ROW-JSON", "tools"),
    ("chat", {**chat(USER, ANSWER), "tools": '[1]'}, "E3-ROW-TYPE", "tools"),
    ("chat", {**chat(USER, ANSWER), "tools": "[" * 100_000}, "E3-ROW-DEPTH", "deep"),
    ("chat", chat(USER, {**ANSWER, "tool_calls": "f()"}), "E3-ROW-TYPE", "tool_calls"),
    ("chat", {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{}"}]},
     "E3-ROW-TYPE", "name"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields", "code", "words"), BAD)
def test_bad_rows_are_named(name: FormatName, fields: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(RowFault) as caught:
        parse(name, fields)
    assert caught.value.code == code
    assert words in caught.value.reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "train", "tool_calls", "x"]), inner)
    ),
    max_leaves=12,
)
NAMES = ["messages", "conversations", "tools", "system", "instruction", "input", "output", "history", "prompt",
         "completion", "text"]  # fmt: skip


def parsed(name: FormatName, fields: dict[str, Any]) -> Example | RowFault:
    try:
        return parse(name, fields)
    except RowFault as fault:
        return fault


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["chat", "alpaca", "prompt_completion", "text"]), st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_json_is_a_row_or_a_fault_and_never_coerced(name: FormatName, fields: dict[str, Any]) -> None:
    row = parsed(name, fields)
    if isinstance(row, RowFault):
        assert row.code.startswith("E3-ROW")
        return
    texts = [m.content for m in row.messages] if isinstance(row, Conversation) else [row.prompt, row.completion]
    assert all(text is None or isinstance(text, str) for text in texts)
