"""A chat template: text in Jinja, rendered as `apply_chat_template` renders it."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lorafit.data.sandbox import aliased, check_size, compiled, limits
from lorafit.data.today import write_now
from lorafit.errors import DataError, SafetyRefusal

if TYPE_CHECKING:
    from jinja2 import Template
    from transformers import PreTrainedTokenizerBase

MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

RenderMessage = Mapping[str, Any]
_Result = TypeVar("_Result")


class TemplateRefusal(Exception):
    """The template refused a conversation, or failed on it; the text says how."""


class ChatTemplate:
    """The Jinja text of a template together with the special tokens it writes."""

    def __init__(self, source: str, variables: Mapping[str, Any]) -> None:
        self.source = source
        self.variables = dict(variables)
        self.marked = MARK.search(source) is not None
        self.gave_no_tools = False  # the last render was possible only with an empty list of tools
        self._compiled: Template | None = None

    def render(
        self,
        messages: Sequence[RenderMessage],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        generation_prompt: bool = False,
    ) -> str:
        """Give the text of a conversation, as `apply_chat_template` does.

        Raises TemplateRefusal where the template raises or fails, SafetyRefusal where it runs too long or
        writes too much, DataError where it is no template.
        """

        def write(template: "Template", variables: dict[str, Any]) -> str:
            return template.render(variables)

        return self._with_tools(write, messages, tools, generation_prompt)

    def marks(
        self, messages: Sequence[RenderMessage], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[tuple[int, int]]:
        """Give the character spans of the `{% generation %}` blocks in the text (none without marks)."""
        if not self.marked:
            return []

        def write(template: "Template", variables: dict[str, Any]) -> list[tuple[int, int]]:
            blocks: list[str] = []
            spans: list[tuple[int, int]] = []
            with template.environment.activate_tracker(blocks, spans):  # type: ignore[attr-defined]
                blocks.extend(template.generate(variables))
            return spans

        return self._with_tools(write, messages, tools, generation_prompt=False)

    def _with_tools(
        self,
        write: "Callable[[Template, dict[str, Any]], _Result]",
        messages: Sequence[RenderMessage],
        tools: Sequence[Mapping[str, Any]] | None,
        generation_prompt: bool,
    ) -> _Result:
        """Write with the tools of the row. Some templates cannot do without a list, be it empty."""
        self.gave_no_tools = False
        try:
            return self._guarded(write, messages, tools, generation_prompt)
        except TemplateRefusal as refusal:
            if tools is not None:
                raise
            try:
                written = self._guarded(write, messages, [], generation_prompt)
            except TemplateRefusal:
                raise refusal from None
            self.gave_no_tools = True
            return written

    def _guarded(
        self,
        write: "Callable[[Template, dict[str, Any]], _Result]",
        messages: Sequence[RenderMessage],
        tools: Sequence[Mapping[str, Any]] | None,
        generation_prompt: bool,
    ) -> _Result:
        from jinja2.exceptions import SecurityError, TemplateSyntaxError

        # as transformers does: a null is a key that is not there
        present = [{key: value for key, value in message.items() if value is not None} for message in messages]
        variables = {
            **self.variables,
            "messages": aliased(present),
            "tools": None if tools is None else list(tools),
            "documents": None,
            "add_generation_prompt": generation_prompt,
            "strftime_now": write_now,
        }
        try:
            with limits():
                if self._compiled is None:
                    self._compiled = compiled(self.source)
                written = write(self._compiled, variables)
        except SafetyRefusal:
            raise
        except (TemplateSyntaxError, SyntaxError) as error:
            what = f"the chat template is not valid Jinja: {getattr(error, 'message', error)}"
            raise DataError(
                what,
                where=f"line {error.lineno} of the template",
                fix="mend data.chat_template, or give another",
                code="E3-TEMPLATE",
            ) from None
        except SecurityError as error:
            raise SafetyRefusal(
                f"the chat template does what none may: {error}",
                fix="give data.chat_template a template that only writes text",
                code="E12-TEMPLATE",
            ) from None
        except Exception as error:  # noqa: BLE001  a template is a program: it may fail in any way
            raise TemplateRefusal(str(error) or type(error).__name__) from None
        if isinstance(written, str):
            check_size(written, sum(len(str(message)) for message in messages) if len(written) > 100_000 else 0)
        return written


def template_of(tokenizer: "PreTrainedTokenizerBase", *, tools: bool = False) -> ChatTemplate:
    """Take the tokenizer's template (its tool template, where it has one and there are tools).

    Raises DataError when it has none.
    """
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("tool_use") if tools and "tool_use" in template else template.get("default")
    if not template:
        raise DataError(
            "the tokenizer has no chat template, and the rows are conversations",
            fix="give a Jinja file as data.chat_template, or rows of plain text (prompt_completion)",
            code="E3-NO-TEMPLATE",
        )
    return ChatTemplate(str(template), tokenizer.special_tokens_map)
