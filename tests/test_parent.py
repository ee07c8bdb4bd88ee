"""A process of a benchmark does not outlive the command that started it, even where that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CHILD = """
import time
from litespark.parent import end_with_parent
end_with_parent()
print("watching", flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_ends_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    lines = [parent.stdout.readline().strip(), parent.stdout.readline().strip()]
    (child,) = (int(line) for line in lines if line.isdigit())
    try:
        assert "watching" in lines
        assert runs(child)
        parent.kill()
        parent.wait(100)
        deadline = time.monotonic() + 100
        while runs(child) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not runs(child)
    finally:
        parent.kill()
        if runs(child):
            os.kill(child, signal.SIGKILL)
