"""One process at a time writes into the folder of a run: its lease names it, is renewed by it and ends with it.

A lease is a file of `filelock`, which needs no locks of the disk: some that machines share have none between machines.
The lease of a process of this machine that has died is free at once; any other when it is not renewed any more, as in
a copy of a folder. Reading needs no lease.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from litespark.run.folder import LOCK
from litespark.run.targets import ConfigError

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
# a lease that is not renewed for so long is that of a dead process
SILENT_SECONDS = 60.0
_POLL_SECONDS = 0.2


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lease of a run folder; one whose owner is dead is taken over, with one line."""
    lease = SoftFileLease(
        folder / LOCK,
        lease_duration=SILENT_SECONDS,
        heartbeat_interval=BEAT_SECONDS,
        on_compromise=lambda lost: _end(folder, lost.reason),
    )
    before = lease.owner
    _acquire(lease, folder)
    if before is not None:
        log.warning("taking over %s from %s, which has ended", folder, _named(before))
    try:
        yield
    finally:
        lease.release()


def _acquire(lease: SoftFileLease, folder: Path) -> None:
    """Take the lease, watching for a renewal where another process has it."""
    renewed, begun = None, time.monotonic()
    while True:
        try:
            lease.acquire(timeout=0 if renewed is None else _POLL_SECONDS)
            return
        except Timeout:
            owner = lease.owner
        try:
            status = (folder / LOCK).stat()
        except FileNotFoundError:  # it was left just now
            continue
        seen = status.st_mtime_ns
        if renewed not in (None, seen):
            raise ConfigError(
                f"{folder} is being written by {_named(owner)}; this is process {os.getpid()} on "
                f"{socket.gethostname()}. Let it end, or stop it, and start again"
            )
        if renewed is None:
            line = "%s is locked by %s; looking for up to %g s whether that still runs"
            log.warning(line, folder, _named(owner), SILENT_SECONDS)
        renewed = seen
        # of a full disk; filelock 4.3.1 waits for it for ever
        if status.st_size == 0 and time.monotonic() - begun > SILENT_SECONDS:
            (folder / LOCK).unlink(missing_ok=True)


def _end(folder: Path, reason: str) -> None:
    if reason == "owner-changed":
        # this process was silent for so long that it was taken for dead: two must not write
        print(f"{folder} was taken over by another process; process {os.getpid()} ends", file=sys.stderr, flush=True)
        os._exit(1)


def _named(owner: Any) -> str:
    return "another process" if owner is None else f"process {owner.pid} on {owner.hostname}"
