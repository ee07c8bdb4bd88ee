"""Ends a process of a benchmark when the one that started it is gone.

What is killed cannot end its children, and a process that goes on would take the device from the next measurement.
"""

from __future__ import annotations

import os
import signal
import threading
import time

# rare enough to cost a step nothing
_EVERY_SECONDS = 1.0


def end_with_parent() -> None:
    """From now on end this process and its group, by SIGKILL, within seconds of the end of its parent."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_EVERY_SECONDS)
        if os.getpgrp() == os.getpid():  # a group of its own, as `launch` starts it
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
