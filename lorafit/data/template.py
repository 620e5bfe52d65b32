"""A chat template, rendered by transformers' sandbox within limits of time and size."""

import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from lorafit.errors import DataError, SafetyRefusal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RENDER_SECONDS = 5
RENDER_CHARACTERS = 4_000_000  # more only for a conversation that is as long itself
MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")

RenderMessage = Mapping[str, Any]


class TemplateRefusal(Exception):
    """The template refused a conversation, or failed on it; the text says how."""


class ChatTemplate:
    """The Jinja text of a template together with the special tokens it writes."""

    def __init__(self, source: str, variables: Mapping[str, Any]) -> None:
        self.source = source
        self.variables = dict(variables)
        self.marked = MARK.search(source) is not None

    def render(
        self,
        messages: Sequence[RenderMessage],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        generation_prompt: bool = False,
    ) -> str:
        """Give the text of a conversation, as `apply_chat_template` does.

        Raises TemplateRefusal where the template raises, fails, runs too long or writes too much.
        """
        return self.render_with_marks(messages, tools, generation_prompt=generation_prompt)[0]

    def render_with_marks(
        self,
        messages: Sequence[RenderMessage],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        generation_prompt: bool = False,
    ) -> tuple[str, list[tuple[int, int]]]:
        """Give the text and the character spans of its `{% generation %}` blocks (none without marks)."""
        from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
        try:
            with _time_limit() as clock:
                rendered: Any = render_jinja_template(  # declared as text, but it is texts and spans
                    conversations=[chat],
                    tools=[dict(tool) for tool in tools] if tools is not None else None,
                    chat_template=self.source,
                    return_assistant_tokens_mask=self.marked,
                    add_generation_prompt=generation_prompt,
                    **self.variables,
                )
        except TemplateSyntaxError as error:
            what = f"the chat template is not valid Jinja: {error.message}"
            raise DataError(what, where=f"line {error.lineno} of the template", code="E3-TEMPLATE") from None
        except SecurityError as error:
            raise SafetyRefusal(f"the chat template does what none may: {error}", code="E12-TEMPLATE") from None
        # A template is a program: it may fail in any way an expression can.
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise TemplateRefusal(clock.verdict or str(error) or type(error).__name__) from None
        except (RecursionError, MemoryError, TimeoutError) as error:
            raise TemplateRefusal(clock.verdict or str(error) or "it needs too much memory") from None
        (text,), marks = rendered
        _check_size(text, chat)
        return text, list(marks[0]) if self.marked else []


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


def _check_size(text: str, chat: Sequence[RenderMessage]) -> None:
    if len(text) > RENDER_CHARACTERS and len(text) > 20 * sum(len(str(message)) for message in chat):
        raise TemplateRefusal(f"it wrote {len(text):,} characters for a conversation of far fewer")


@dataclass
class _Clock:
    """Why a render was stopped, if it was: jinja may turn the exception into another."""

    verdict: str = ""

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop the render from inside a signal handler."""
        self.verdict = f"it did not end within {RENDER_SECONDS} seconds"
        raise TimeoutError(self.verdict)


@contextmanager
def _time_limit() -> Iterator[_Clock]:
    """Stop a template that does not end. Signals reach the main thread only; elsewhere there is no limit."""
    clock = _Clock()
    if threading.current_thread() is not threading.main_thread():
        yield clock
        return
    before = signal.signal(signal.SIGVTALRM, clock.stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, RENDER_SECONDS)
    try:
        yield clock
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
