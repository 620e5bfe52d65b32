"""Values of a template's own variables: what is trained is what whoever serves the saved template asks with."""

from collections.abc import Mapping

import pytest
from tokenizers_made import CHATML, byte_level

from lorafit.data.chat import ChatRenderer, generation_prompt
from lorafit.data.template_defaults import settle
from lorafit.errors import DataError
from lorafit.recipe.formats import Conversation, RowFault, parse
from lorafit.recipe.schema import TemplateValue

# As Nemotron 3: asks with an open thought unless told not to; writes a closed one before an answer without.
THINKS = """{%- set enable_thinking = enable_thinking if enable_thinking is defined else true -%}
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.role == "assistant" and "<think>" not in m.content %}<think></think>{% endif %}{{ m.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking %}<think>
{% else %}<think></think>{% endif -%}
{%- endif -%}"""
ASKED = [{"role": "user", "content": "Is it?"}]
TALK = {"messages": [*ASKED, {"role": "assistant", "content": "It is."}]}


def talk() -> Conversation:
    row = parse("chat", TALK)
    assert isinstance(row, Conversation)
    return row


def test_thinking_is_off_where_plain_answers_could_not_be_trained_else() -> None:
    tokenizer = byte_level(THINKS)
    with pytest.raises(RowFault, match="asks for an answer with"):
        ChatRenderer(tokenizer, "assistant").render(talk())
    decided = settle(tokenizer, {})
    assert decided is not None
    assert "enable_thinking is off" in decided
    rendered = ChatRenderer(tokenizer, "assistant").render(talk())
    prompt = tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    assert rendered.text[: rendered.prompt_end] == prompt == generation_prompt(tokenizer, ASKED)
    assert rendered.text == tokenizer.apply_chat_template(TALK["messages"], tokenize=False)
    (span,) = rendered.trained
    assert rendered.text[slice(*span)] == "It is.<|im_end|>"


def test_whoever_serves_the_template_may_still_ask_for_thinking() -> None:
    tokenizer = byte_level(THINKS)
    settle(tokenizer, {})
    asked = tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert asked.endswith("<think>\n")


def test_what_the_recipe_says_holds() -> None:
    tokenizer = byte_level(THINKS)
    assert settle(tokenizer, {"enable_thinking": True}) is None
    assert generation_prompt(tokenizer, ASKED).endswith("<think>\n")


@pytest.mark.parametrize("template", [CHATML, None, {"default": CHATML, "tool_use": CHATML}])
def test_templates_that_train_as_they_are_stay_as_they_are(template: str | dict[str, str] | None) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    assert settle(tokenizer, {}) is None
    assert tokenizer.chat_template == template


@pytest.mark.parametrize(
    "values", [{"tone": 'a "quoted"\n\\ word é'}, {"tone": True}, {"tone": -0.5}, {"tone": 7, "other": False}]
)
def test_values_of_every_kind_are_written(values: Mapping[str, TemplateValue]) -> None:
    tokenizer = byte_level("{{ [tone, other] }}{{ messages[0].content }}")
    assert settle(tokenizer, {"other": 1} | values) is None
    said = tokenizer.apply_chat_template(ASKED, tokenize=False)
    given = tokenizer.apply_chat_template(ASKED, tokenize=False, **({"other": 1} | values))
    assert said == given


def test_each_of_several_templates_is_written() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = {"default": "{{ tone }}", "tool_use": "{{ tone }} {{ tools }}"}
    settle(tokenizer, {"tone": "low"})
    for template in tokenizer.chat_template.values():
        assert tokenizer.apply_chat_template(ASKED, chat_template=template, tokenize=False).startswith("low")


@pytest.mark.parametrize("template", [CHATML, None])
def test_a_variable_that_the_template_does_not_have_is_refused(template: str | None) -> None:
    with pytest.raises(DataError, match="no variable 'enable_thinkin'"):
        settle(byte_level(template), {"enable_thinkin": False})


def test_thinking_within_a_text_is_trained_where_the_template_takes_it_apart() -> None:
    apart = THINKS.replace(
        'and "<think>" not in m.content %}<think></think>{% endif %}',
        "%}<think>{{ '\\n' + m.reasoning_content + '\\n' if m.reasoning_content else '' }}</think>{% endif %}",
    )
    tokenizer = byte_level(apart)
    settle(tokenizer, {"enable_thinking": True})
    row = parse("chat", {"messages": [*ASKED, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nIt is."}]})
    assert isinstance(row, Conversation)
    rendered = ChatRenderer(tokenizer, "assistant").render(row)
    (span,) = rendered.trained
    assert rendered.text[slice(*span)] == "Hm.\n</think>It is.<|im_end|>"
    assert rendered.notes == ("thinking apart",)
