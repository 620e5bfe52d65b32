"""Values of a chat template's own variables, written into it: whoever asks by it later asks as it was trained."""

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lorafit.data.chat import ChatRenderer, TemplateFault
from lorafit.errors import DataError, SafetyRefusal
from lorafit.recipe.formats import Conversation, Message, RowFault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lorafit.recipe.schema import TemplateValue

THINKING = "enable_thinking"
PLAIN = Conversation((Message("user", "Is it?"), Message("assistant", "It is.")))


def settle(tokenizer: "PreTrainedTokenizerBase", values: Mapping[str, "TemplateValue"]) -> str | None:
    """Write values into the tokenizer's template; give what was decided without being asked, if anything.

    A template that asks for an answer with an open thought, and writes answers without one, can be trained only
    with thinking off; then that is what it asks with from now on. DataError where it has no such variable.
    """
    unknown = [name for name in values if not _reads(tokenizer, name)]
    if unknown:
        raise DataError(
            f"the chat template has no variable {', '.join(map(repr, unknown))}",
            where="data.chat_template_kwargs",
            fix="take it out; the template's text says what it reads",
            code="E3-TEMPLATE-VARIABLE",
        )
    if values:
        _rewrite(tokenizer, values)
    elif _needs_thinking_off(tokenizer):
        _rewrite(tokenizer, {THINKING: False})
        return (
            f"the chat template asks for a thought that plain answers do not have: {THINKING} is off, here and in "
            f"the template that is saved (data.chat_template_kwargs: {{{THINKING}: true}} trains on thinking)"
        )
    return None


def _needs_thinking_off(tokenizer: "PreTrainedTokenizerBase") -> bool:
    if not _reads(tokenizer, THINKING) or _masks_plain(tokenizer):
        return False
    given = tokenizer.chat_template
    try:
        _rewrite(tokenizer, {THINKING: False})
        return _masks_plain(tokenizer)
    finally:
        tokenizer.chat_template = given


def _masks_plain(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Say whether a plain answer is masked exactly; a template that fails otherwise says so when rows are read."""
    try:
        ChatRenderer(tokenizer, "assistant").render(PLAIN)
    except TemplateFault:
        return False
    except (RowFault, DataError, SafetyRefusal):
        return True
    return True


def _reads(tokenizer: "PreTrainedTokenizerBase", name: str) -> bool:
    found: list[bool] = []

    def look(source: str) -> str:
        found.append(re.search(rf"\b{re.escape(name)}\b", source) is not None)
        return source

    _each(tokenizer, look)
    return any(found)


def _rewrite(tokenizer: "PreTrainedTokenizerBase", values: Mapping[str, "TemplateValue"]) -> None:
    """Set each variable first of all, unless whoever renders the template gives another value."""
    defaults = "".join(
        f"{{%- if {name} is not defined %}}{{%- set {name} = {json.dumps(value)} %}}{{%- endif %}}"
        for name, value in values.items()
    )
    tokenizer.chat_template = _each(tokenizer, lambda source: f"{defaults}{source}")


def _each(tokenizer: "PreTrainedTokenizerBase", change: Callable[[str], str]) -> str | dict[str, str] | None:
    """Change the template, or each of several (a tokenizer may have another for tools)."""
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        return {name: change(str(source)) for name, source in template.items()}
    return change(str(template)) if template else template
