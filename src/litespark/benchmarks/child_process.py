"""Processes that a benchmark starts: ended with all that they started, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

# 128 + SIGTERM, as shells count
_TERMINATED = 143
# what Hydra writes below a message of ours
_ADVICE = "Set the environment variable HYDRA_FULL_ERROR=1"


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started in a session of its own, and all that it started, and wait for it."""
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def termination_raises() -> Iterator[None]:
    """Within it a SIGTERM raises SystemExit, since the group of the child would not get the signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_exit(number: int, frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, raise_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def how_it_ended(status: int, printed: Path) -> str:
    """The status of a process that went wrong, with the last line that it printed into a file."""
    how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    if status == -signal.SIGKILL:
        how += " (the host may be out of memory)"
    lines = [line.strip() for line in printed.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith(_ADVICE)]
    return f"{how}: {lines[-1] if lines else 'it printed nothing'}"
