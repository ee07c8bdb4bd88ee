"""The lock of a run folder: who is refused, and whose lock is taken over."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from litespark.experiment import run_lock as locks
from litespark.experiment.config import ConfigError
from litespark.experiment.run_lock import LOCK, Owner, run_lock

HOLD = """
import sys, time
from pathlib import Path
from litespark.experiment.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
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
    with run_lock(tmp_path):
        assert f"from process {holder.pid} on {host}, which has ended" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_free_when_it_was_left_and_for_the_same_process_again(tmp_path, caplog):
    for _ in range(2):
        with run_lock(tmp_path):
            assert (tmp_path / LOCK).exists()
    assert not caplog.text


def left(tmp_path, **changes):
    owner = replace(Owner.here(), **changes)
    (tmp_path / LOCK).write_text(json.dumps(asdict(owner)))
    return owner


def test_a_process_id_that_was_used_again_is_no_owner(tmp_path, caplog):
    left(tmp_path, process=os.getppid(), started="1")
    with run_lock(tmp_path):
        assert "which has ended" in caplog.text


def test_a_running_process_is_an_owner_where_the_disk_knows_no_locks(tmp_path):
    left(tmp_path, process=os.getppid(), started=locks._started(os.getppid()))
    with pytest.raises(ConfigError, match=f"written by process {os.getppid()}"), run_lock(tmp_path):
        pass


def test_without_proc_the_lock_of_the_kernel_counts(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "_started", lambda process: "")
    left(tmp_path, process=os.getppid())
    with run_lock(tmp_path):
        assert "which has ended" in caplog.text


def test_the_lock_in_a_copy_of_a_folder_that_is_written_is_nobodys(tmp_path, holder, caplog):
    copy = shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    with run_lock(copy):
        assert f"{copy} is a copy of a run that process {holder.pid} on" in caplog.text
    with pytest.raises(ConfigError, match=f"written by process {holder.pid}"), run_lock(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}'])
def test_a_damaged_lock_is_nobodys(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_the_lock_of_another_machine_is_taken_over_when_its_time_stands_still(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.02)
    left(tmp_path, host="node7", boot="other")
    with run_lock(tmp_path):
        assert "locked by process" in caplog.messages[0]
        assert "on node7, which has ended" in caplog.messages[1]


def test_the_lock_of_another_machine_that_is_renewed_is_refused_with_the_file_to_remove(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.02)
    left(tmp_path, host="node7", boot="other")
    renewal = threading.Timer(0.2, os.utime, [tmp_path / LOCK])
    renewal.start()
    with (
        pytest.raises(ConfigError, match=rf"on node7; .* If that machine is gone, remove .*{LOCK}"),
        run_lock(tmp_path),
    ):
        pass
    renewal.join()


def test_the_owner_renews_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    with run_lock(tmp_path):
        os.utime(tmp_path / LOCK, (1, 1))
        deadline = time.monotonic() + 100
        while (tmp_path / LOCK).stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _wait(event):
    event.wait(60)


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    fork = multiprocessing.get_context("fork")
    event = fork.Event()
    with run_lock(tmp_path):
        child = fork.Process(target=_wait, args=(event,))
        child.start()
    with run_lock(tmp_path):
        pass
    event.set()
    child.join()
