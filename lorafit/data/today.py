"""The day that chat templates write: today, or the day a run began, so that going on and measuring read its rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime

_day: ContextVar[date | None] = ContextVar("day", default=None)


def now() -> datetime:
    """Give the time of now, on the day that is set."""
    present, day = datetime.now(), _day.get()
    return present if day is None else datetime.combine(day, present.time())


@contextmanager
def on_day(day: date | None) -> Iterator[None]:
    """Have templates write this day; None leaves it as it is."""
    before = _day.set(day or _day.get())
    try:
        yield
    finally:
        _day.reset(before)


def write_now(form: str) -> str:
    """Stand in for the `strftime_now` that transformers gives to templates."""
    return now().strftime(form)
