"""What templates want otherwise than it is given, and ends that they leave out: found, and said."""

import pytest
from test_chat import BYTES, CALL, TOOLS, assistant, chat, render, trained, user
from tokenizers_made import CHATML

from lorafit.data.chat import TemplateFault, generation_prompt
from lorafit.recipe.formats import Conversation, RowFault, parse

RESULT = {"role": "tool", "content": "3"}
CALLED = (user("a"), assistant("", tool_calls=[CALL]), RESULT, assistant("b"))
AS_TEXT = '{"city": "Paris \\"x\\" é", "days": 3}'


def with_calls(written: str, end: str = "<|im_end|>\n") -> str:
    """Give a template that writes a call's arguments by an expression of `call.function`."""
    return (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
        "{% for call in m.tool_calls or [] %}{{ '<c>' + call.function.name + " + written + " + '</c>' }}{% endfor %}"
        "{{ '" + end.replace("\n", "\\n") + "' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


def test_arguments_are_given_as_the_template_takes_them() -> None:
    row = chat(*CALLED, tools=TOOLS)
    text = render(BYTES, with_calls("call.function.arguments"), row)
    assert trained(text) == [f"<c>weather{AS_TEXT}</c><|im_end|>", "b<|im_end|>"]
    assert "arguments" in text.notes
    call = {"type": "function", "function": {"name": "weather", "arguments": AS_TEXT}}
    row = chat(user("a"), assistant("", tool_calls=[call]), RESULT, assistant("b"), tools=TOOLS)
    objects = render(BYTES, with_calls("call.function.arguments.items() | list | string"), row)
    assert trained(objects)[1] == "b<|im_end|>"
    assert "arguments" in objects.notes
    assert not render(BYTES, with_calls("call.function.arguments"), row).notes
    assert render(BYTES, with_calls("call.function.arguments | tojson"), row).notes == ("quoted",)


def test_texts_are_given_in_parts_where_a_template_loses_them_otherwise() -> None:
    template = CHATML.replace(
        "m.content", "m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join"
    )
    row = chat(user("a "), assistant(" b"), user("c"), assistant("d"))
    rendered = render(BYTES, template, row)
    assert trained(rendered) == [" b<|im_end|>", "d<|im_end|>"]
    assert rendered.notes == ("parts",)
    asked = [message.for_template() for message in row.messages[:-1]]
    assert generation_prompt(BYTES, asked) == rendered.text[: rendered.prompt_end]


NEXT = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ '<c>' + call.function.name + '=' + call.function.arguments.city + '</c>' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def test_the_token_of_who_speaks_next_ends_a_turn() -> None:
    rendered = render(BYTES, NEXT, chat(user("a"), assistant("b"), user("c"), assistant("d")))
    assert trained(rendered) == ["b<|user|>", "d<|user|>"]
    assert rendered.notes == ("closed",)
    assert rendered.text == "<|user|>a<|assistant|>b<|user|>c<|assistant|>d<|user|>"
    row = chat(*CALLED, tools=TOOLS)
    assert trained(render(BYTES, NEXT, row)) == ['<c>weather=Paris "x" é</c><|tool|>', "b<|user|>"]


def test_a_call_that_is_ended_only_beside_a_text_is_not_taken_for_ended() -> None:
    template = with_calls("(call.function.arguments | tojson)").replace(
        "{{ '<|im_end|>\\n' }}", "{{ '<|im_end|>\n' if m.content }}"
    )
    with pytest.raises(TemplateFault, match="without a text beside it"):
        render(BYTES, template, chat(*CALLED, tools=TOOLS))


def test_thinking_that_is_left_out_is_said() -> None:
    row = chat(user("a"), assistant("b", reasoning_content="hm"))
    assert render(BYTES, CHATML, row).notes == ("thinking lost",)
    kept = CHATML.replace("m.content", "(m.reasoning_content or '') + m.content")
    assert not render(BYTES, kept, row).notes


def test_content_in_parts_is_read() -> None:
    said = [
        {"type": "reasoning", "value": "hm"},
        {"type": "text", "text": "b"},
        {"type": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
    ]
    asked = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "value": "a"}]}
    row = parse("chat", {"messages": [asked, assistant(said), RESULT, assistant("d")]})  # type: ignore[arg-type]
    assert isinstance(row, Conversation)
    assert row.messages[0].content == "aa"
    assert row.messages[1].content == "b"
    assert row.messages[1].extras == {
        "reasoning_content": "hm",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
    }
    with pytest.raises(RowFault, match="of type 'image'"):
        parse("chat", {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, assistant("b")]})


LAST_ENDS_OTHERWISE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% if loop.last and m.role == 'assistant' %}{{ eos_token }}{% else %}{{ '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("answer", ["[/THINK]", "use the tag <think>", "a </think>", "<think>x</think>", "x <think> "])
def test_an_answer_that_ends_in_a_thinking_tag_ends_with_its_end(answer: str) -> None:
    rendered = render(BYTES, LAST_ENDS_OTHERWISE, chat(user("a"), assistant("b"), user("c"), assistant(answer)))
    assert trained(rendered) == ["b<|im_end|>", f"{answer}{BYTES.eos_token}"]
    again = render(BYTES, LAST_ENDS_OTHERWISE, chat(user("a"), assistant(answer), user("c"), assistant("b")))
    assert trained(again) == [f"{answer}<|im_end|>", f"b{BYTES.eos_token}"]


@pytest.mark.parametrize(
    "content",
    ["(m.content | replace('yes', 'no')) if 'yes yes' in m.content else m.content", "m.content | string | upper"],
)
def test_a_template_that_takes_texts_is_not_given_parts_to_print(content: str) -> None:
    template = CHATML.replace("m.content", f"({content})")
    with pytest.raises(TemplateFault):
        render(BYTES, template, chat(user("yes yes"), assistant("yes yes")))
