"""The lease of a run folder: who is refused, and whose lease is taken over."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from filelock import SoftFileLease, Timeout

from litespark.run import run_lock as locks
from litespark.run.config import ConfigError
from litespark.run.folder import LOCK
from litespark.run.run_lock import run_lock

HOLD = """
import sys, time
from pathlib import Path
from litespark.run import run_lock
run_lock.BEAT_SECONDS = 0.05
run_lock.SILENT_SECONDS = float(sys.argv[2])
with run_lock.run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "SILENT_SECONDS", 2.0)
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.05)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "2.0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_both_named_and_takes_over_from_a_dead_one(tmp_path, holder, caplog):
    host = socket.gethostname()
    both = f"written by process {holder.pid} on {host}; this is process {os.getpid()} on {host}"
    with pytest.raises(ConfigError, match=both), run_lock(tmp_path):
        pass
    holder.kill()
    holder.wait()
    caplog.clear()
    with run_lock(tmp_path):
        (line,) = caplog.messages  # at once
        assert f"from process {holder.pid} on {host}, which has ended" in line
    assert list(tmp_path.iterdir()) == []


def another_machines(path):
    """The lease of a process of another machine, as it would have left it."""
    with run_lock(path):
        content = (path / LOCK).read_text()
    (path / LOCK).write_text(content.replace(f"host={socket.gethostname()}", "host=node7"))


def test_the_lease_of_another_machine_is_taken_over_when_it_is_not_renewed_and_else_refused(tmp_path, caplog):
    another_machines(tmp_path)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.05):
            os.utime(tmp_path / LOCK)

    renewal = threading.Thread(target=renew)
    renewal.start()
    with pytest.raises(ConfigError, match="on node7"), run_lock(tmp_path):
        pass
    ended.set()
    renewal.join()
    caplog.clear()
    with run_lock(tmp_path):
        assert "locked by process" in caplog.messages[0]
        assert "on node7, which has ended" in caplog.messages[1]


def test_the_lease_in_a_copy_of_a_folder_that_is_written_is_nobodys(tmp_path, holder):
    copy = shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    with run_lock(copy), pytest.raises(ConfigError, match=f"written by process {holder.pid}"), run_lock(tmp_path):
        pass


def test_a_process_that_was_taken_for_dead_ends_when_it_wakes(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    with run_lock(tmp_path):
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(60) == 1
    assert "was taken over by another process" in holder.stderr.read()


@pytest.mark.parametrize("content", ["", "{", "pid=1"])
def test_a_damaged_lease_is_nobodys(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with run_lock(tmp_path):
        assert f"pid={os.getpid()}" in (tmp_path / LOCK).read_text()


def test_filelock_never_takes_an_empty_lease(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    taken = {}
    for content in ("", "{"):
        (tmp_path / LOCK).write_text(content)
        lease = SoftFileLease(tmp_path / LOCK, lease_duration=2.0, heartbeat_interval=1.0)
        for _ in range(3):
            with suppress(Timeout):
                lease.acquire(timeout=0)
            now[0] += 10 * 365 * 86400
        taken[content] = lease.is_locked
        lease.release()
    assert taken == {"": False, "{": True}, "filelock is mended: `_acquire` need not remove an empty lease"
