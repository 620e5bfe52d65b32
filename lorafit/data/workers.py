"""Windows of rows worked through in several processes, and handed back in their order.

Worth its start for large sets only, so the first windows are worked through here. What a process cannot do (it was
killed; it met something that stops the run) is done again here, so that errors and results are those of one process.
"""

import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice

from lorafit.data.rows import Row
from lorafit.data.workshop import Outcome, Workshop
from lorafit.errors import LorafitError
from lorafit.recipe.formats import Example

WINDOW_ROWS = 512
WINDOWS_HERE = 2
MOST_WORKERS = 16

Window = list[tuple[Row, Example]]
Worked = tuple[Window, list[Outcome]]


def worked(shop: Workshop, examples: Iterator[tuple[Row, Example]]) -> Iterator[Worked]:
    """Give windows of examples with their outcomes, in order. Raises what the workshop raises."""
    windows = _windows(examples)
    for window in islice(windows, WINDOWS_HERE):
        yield window, _here(shop, window)
    following = next(windows, None)
    if following is None:
        return
    rest = _chained(following, windows)
    pool = _pool(shop) if worker_count() > 1 else None
    if pool is None:
        yield from ((window, _here(shop, window)) for window in rest)
        return
    try:
        yield from _ahead(shop, pool, rest)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def worker_count() -> int:
    """Give how many processes are worth it: one a processor that we may use, where processes can be forked."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1


def _windows(examples: Iterator[tuple[Row, Example]]) -> Iterator[Window]:
    while window := list(islice(examples, WINDOW_ROWS)):
        yield window


def _chained(first: Window, others: Iterator[Window]) -> Iterator[Window]:
    yield first
    yield from others


def _here(shop: Workshop, window: Window) -> list[Outcome]:
    return shop.outcomes([example for _, example in window])


def _ahead(shop: Workshop, pool: ProcessPoolExecutor, windows: Iterator[Window]) -> Iterator[Worked]:
    """Keep each process one window ahead, and no more: memory holds a few windows, however many rows there are."""
    waiting: deque[tuple[Window, Future[list[Outcome] | None] | None]] = deque()
    for window in windows:
        waiting.append((window, _submitted(pool, window)))
        if len(waiting) > 2 * worker_count():
            yield _finished(shop, *waiting.popleft())
    while waiting:
        yield _finished(shop, *waiting.popleft())


def _submitted(pool: ProcessPoolExecutor, window: Window) -> Future[list[Outcome] | None] | None:
    with suppress(BrokenProcessPool):
        return pool.submit(_work, [example for _, example in window])
    return None


def _finished(shop: Workshop, window: Window, future: Future[list[Outcome] | None] | None) -> Worked:
    outcomes = None
    if future is not None:
        with suppress(BrokenProcessPool):
            outcomes = future.result()
    return window, _here(shop, window) if outcomes is None else outcomes


def _pool(shop: Workshop) -> ProcessPoolExecutor | None:
    """Start processes that know the workshop by being forked from this one; None where the system has none to give."""
    before = multiprocessing.active_children()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads; see _begin
        try:
            context = multiprocessing.get_context("fork")
            pool = ProcessPoolExecutor(worker_count(), context, _begin, (shop, os.getpid()))
            pool.submit(os.getpid)  # which forks all of them: none is forked later
        except (OSError, RuntimeError):  # no process, thread, semaphore or descriptor is left
            for process in set(multiprocessing.active_children()) - set(before):
                process.kill()
                process.join()
            return None
    return pool


_shop: Workshop


def _begin(shop: Workshop, parent: int) -> None:
    """Begin a process: requests to stop are its parent's, with whom it goes; it starts no threads of its own.

    SIGTERM ends it, whatever the parent does with one: so the pool ends the others when one of them is gone.
    """
    global _shop  # noqa: PLW0603  # what a forked process works with
    _shop = shop
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for number, action in (
        (signal.SIGINT, signal.SIG_IGN),
        (signal.SIGHUP, signal.SIG_IGN),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        signal.signal(number, action)
    _die_with_parent(parent)


def _die_with_parent(parent: int) -> None:
    import ctypes

    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _work(examples: Sequence[Example]) -> list[Outcome] | None:
    """Work through a window; None for what stops the run, which the parent then meets by itself."""
    try:
        return _shop.outcomes(examples)
    except LorafitError:
        return None
