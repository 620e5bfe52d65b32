"""Where a chat template runs: transformers' own Jinja sandbox, within limits of time, memory and numbers.

A template comes with a model from wherever that came from, and it is a program: it may loop, and it may grow.
"""

import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from types import FrameType
from typing import TYPE_CHECKING, Any

from lorafit.errors import SafetyRefusal

if TYPE_CHECKING:
    from jinja2 import Template

RENDER_SECONDS = 1.0  # of the processor's time, for one conversation
RENDER_CHARACTERS = 1_000_000  # more only for a conversation that is long itself
_MEMORY_BYTES = 1 << 30  # what a render may add to the process
_NUMBER_BITS = 4096
_PAGE_BYTES = resource.getpagesize()
_DICT_NAMES = frozenset(dir(dict))


class _OutOfTime(BaseException):
    """Not an Exception, so that nothing between a template and `limits` takes it for its own."""


@lru_cache(maxsize=32)
def compiled(source: str) -> "Template":
    """Compile a template as transformers does, but with products and powers that are bounded.

    Raises jinja2's TemplateSyntaxError.
    """
    template: Template = _environment().from_string(source)
    return template


@lru_cache(maxsize=1)
def _environment() -> Any:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    # Each compilation there has an environment of its own; this one is the empty template's.
    environment = _compile_jinja_template("").environment
    # Jinja folds constants when it compiles, except for what is intercepted.
    environment.intercepted_binops = frozenset({"*", "**"})
    environment.call_binop = _bounded
    _remember_what_is_safe(environment)
    return environment


def _remember_what_is_safe(environment: Any) -> None:
    """Ask once for each type and name; a key of a plain dict that no attribute has is no attribute.

    What the sandbox answers depends on the type alone, and it is asked a dozen times for every message.
    """
    judge, look_up = environment.is_safe_attribute, environment.getattr
    known: dict[tuple[type, str], bool] = {}

    def is_safe_attribute(obj: Any, name: str, value: Any) -> bool:
        key = (type(obj), name)
        if key not in known:
            known[key] = judge(obj, name, value)
        return known[key]

    def attribute(obj: Any, name: str) -> Any:
        if type(obj) is dict and name in obj and name not in _DICT_NAMES:
            return obj[name]
        return look_up(obj, name)

    environment.is_safe_attribute, environment.getattr = is_safe_attribute, attribute


def aliased(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give thinking every name that templates read it under, as transformers does from the version that does."""
    from transformers.utils import chat_template_utils

    alias = getattr(chat_template_utils, "_alias_reasoning_fields", None)
    return list(alias(messages)) if alias else messages


def _bounded(context: Any, operator: str, left: Any, right: Any) -> Any:
    """Multiply, or raise to a power, unless no memory or time would hold the result."""
    if operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _NUMBER_BITS:
            raise OverflowError("a power too large")
        return left**right
    for repeated, times in ((left, right), (right, left)):
        if isinstance(times, int) and hasattr(repeated, "__len__") and len(repeated) * times > 20 * RENDER_CHARACTERS:
            raise _refusal(f"it repeats something {times:,} times")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _NUMBER_BITS:
        raise OverflowError("a product too large")
    return left * right


def check_size(text: str, given: int) -> None:
    """Raise SafetyRefusal for a text of far more characters than the `given` ones of its conversation."""
    if len(text) > RENDER_CHARACTERS and len(text) > 20 * given:
        raise _refusal(f"it writes {len(text):,} characters for a conversation of {given:,}")


def _refusal(what: str) -> SafetyRefusal:
    return SafetyRefusal(
        f"the chat template is stopped: {what}",
        fix="use another template (data.chat_template)",
        code="E12-TEMPLATE",
    )


@contextmanager
def limits() -> Iterator[None]:
    """Stop what runs too long or takes too much memory. Raises SafetyRefusal.

    Signals reach the main thread only, and limits of memory hold for the process: another thread has neither.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    memory = _limit_memory()
    _Limited.now = True
    _start_clock()
    try:
        yield
    except _OutOfTime:
        raise _refusal(f"it did not end within {RENDER_SECONDS:g} s") from None
    except MemoryError:
        raise _refusal("it needs too much memory") from None
    finally:
        _Limited.now = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, memory)


class _Limited:
    """Whether limits hold, and whether the signal that tells the time is ours yet."""

    now = False
    listening = False


def _start_clock() -> None:
    if not _Limited.listening:
        signal.signal(signal.SIGVTALRM, _stop)
        _Limited.listening = True
    signal.setitimer(signal.ITIMER_VIRTUAL, RENDER_SECONDS)


def _stop(signum: int, frame: FrameType | None) -> None:
    if _Limited.now:
        raise _OutOfTime


@lru_cache(maxsize=1)
def _memory_counts(process: int) -> int:
    """Open what tells a process how much memory it has; left open, since it is read before every render."""
    return os.open(f"/proc/{process}/statm", os.O_RDONLY | os.O_CLOEXEC)


def _limit_memory() -> tuple[int, int] | None:
    """Bound the address space of the process; give the limit that was there, None where it cannot be set."""
    if sys.platform != "linux":
        return None
    with suppress(OSError, ValueError):
        taken = int(os.pread(_memory_counts(os.getpid()), 64, 0).split(b" ", 1)[0]) * _PAGE_BYTES
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = taken + _MEMORY_BYTES
        if soft == resource.RLIM_INFINITY or wanted < soft:
            resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
            return soft, hard
    return None
