"""Stop on request: the first signal asks, the second forces."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NOTICE = b"\nstopping after this step, with a checkpoint; a second signal stops at once\n"


class Requests:
    """What has been asked of the run from outside; read between steps, never acted on in a handler."""

    def __init__(self) -> None:
        self.stop = False
        self.save = False

    def on_stop(self, number: int, frame: FrameType | None) -> None:
        """Note the first SIGINT or SIGTERM; leave at once on the second, with the last commit intact."""
        if self.stop:
            os._exit(128 + number)
        self.stop = True
        os.write(2, NOTICE)  # print is not safe in a handler

    def on_save(self, number: int, frame: FrameType | None) -> None:
        """Note SIGUSR1: save a checkpoint and go on."""
        self.save = True


@contextmanager
def listening() -> Iterator[Requests]:
    """Listen for SIGINT, SIGTERM, SIGHUP (the terminal is gone) and SIGUSR1 while a run is under way."""
    requests = Requests()
    handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), requests.on_stop)
    handlers[signal.SIGUSR1] = requests.on_save
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
