"""What a run changes for the process that it runs in, and leaves so, since that process ends with it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT)


@contextmanager
def as_before() -> Iterator[None]:
    """Puts back the handlers of logging, which hold a stream that pytest closes, and those of signals."""
    log = logging.getLogger()
    handlers, level = log.handlers[:], log.level
    signals = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        log.handlers[:], log.level = handlers, level
        for number, handler in signals.items():
            if handler is not None:
                signal.signal(number, handler)
