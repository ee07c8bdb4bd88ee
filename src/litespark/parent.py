"""Notices that the parent process is gone: what is killed cannot end its children, which would hold the device."""

import os
import signal
import threading
import time
from collections.abc import Callable

# rare enough to cost a step nothing
_EVERY_SECONDS = 0.2


def when_parent_ends(act: Callable[[], None]) -> None:
    """Call `act` once, from another thread, within seconds of the end of the process that started this one."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_EVERY_SECONDS)
        act()

    threading.Thread(target=watch, daemon=True, name="when-parent-ends").start()


def end_with_parent() -> None:
    """From now on end this process and its group, by SIGKILL, within seconds of the end of its parent."""

    def end() -> None:
        if os.getpgrp() == os.getpid():  # a group of its own, as `launch` starts it
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    when_parent_ends(end)
