"""One process at a time writes into the folder of a run: a lock that names its owner and ends with it.

On one machine the kernel holds the lock and frees it when its owner dies, by kill -9 too. Other machines that share the
disk may not see that, so the owner renews the time of the file, and a lock of another machine is taken over once that
time stands still. Reading needs no lock.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from litespark.data.preparation.locks import acquired
from litespark.experiment.targets import ConfigError

log = logging.getLogger(__name__)

LOCK = "lock.json"
BEAT_SECONDS = 10.0
"""Between two renewals of the time of a lock."""
SILENT_SECONDS = 60.0
"""Not renewed for so long, the lock of another machine is that of a dead process."""
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Owner:
    """A process: its id may be used again, on another machine or later, but not with the same start."""

    host: str
    boot: str
    """Of the machine's kernel since it was started: two machines may have one name."""
    process: int
    started: str
    inode: int = field(default=0, compare=False)
    """Of the lock file: in a copy of a folder it is another; 0 where it is not known."""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    @classmethod
    def here(cls) -> Owner:
        return cls(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()))

    @property
    def lives_here(self) -> bool:
        """Whether it is a running process of this machine; without /proc only the kernel's lock can tell."""
        return self.boot == _boot() and _started(self.process) == self.started != ""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; a lock whose owner is dead is taken over, with one line.

    Raises:
        ConfigError: another process holds it; names both.
        OSError: the folder cannot be written.
    """
    path = folder / LOCK
    lock = acquired(path, wait=False)  # no fork (a loader's worker) keeps it beyond the death of its owner
    if lock is None:
        raise _held(path, _owner(path))
    try:
        owner, inode = _owner(path), path.stat().st_ino
        if owner is not None and owner.lives_here and owner.inode not in (0, inode):
            log.warning("%s is a copy of a run that %s writes; it goes on by itself from here", folder, owner)
        elif owner is not None and owner != Owner.here():
            if owner.lives_here or (owner.boot != _boot() and _shows_life(path, owner)):
                raise _held(path, owner)
            log.warning("taking over %s from %s, which has ended", folder, owner)
        path.write_text(json.dumps(asdict(replace(Owner.here(), inode=inode))))
    except BaseException:
        lock.release()
        raise
    ended = threading.Event()
    beat = threading.Thread(target=_renew, args=(path, ended), name="run lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if _owner(path) == Owner.here():
            path.unlink(missing_ok=True)
        lock.release()


def _renew(path: Path, ended: threading.Event) -> None:
    me = Owner.here()
    while not ended.wait(BEAT_SECONDS):
        try:
            os.utime(path)
            owner = _owner(path)
        except OSError as error:  # a disk that is away for a while; a step that needs it fails by itself
            log.debug("%s is not renewed: %s", path, error)
            continue
        if owner not in (None, me):
            # this process was silent for so long that it was taken for dead: two must not write
            print(f"{path.parent} was taken over by {owner}; {me} ends", file=sys.stderr, flush=True)
            os._exit(1)


def _shows_life(path: Path, owner: Owner) -> bool:
    """Watch the lock of another machine until it is renewed, or was not for long enough.

    Times are those that the disk gives, since the clocks of two machines may differ.
    """
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    last = path.stat().st_mtime
    told = False
    try:
        while True:
            probe.touch()
            if probe.stat().st_mtime - last > SILENT_SECONDS:
                return False
            if path.stat().st_mtime != last:
                return True
            if not told:
                log.warning("%s is locked by %s; looking for up to %g s whether that still runs", path.parent, owner,
                            SILENT_SECONDS)  # fmt: skip
                told = True
            time.sleep(_POLL_SECONDS)
    finally:
        probe.unlink(missing_ok=True)


def _held(path: Path, owner: Owner | None) -> ConfigError:
    elsewhere = "" if owner is None or owner.boot == _boot() else f" If that machine is gone, remove {path}."
    return ConfigError(
        f"{path.parent} is being written by {owner or 'another process'}; this is {Owner.here()}. Let it end, or stop "
        f"it, and start again.{elsewhere}"
    )


def _owner(path: Path) -> Owner | None:
    """Who a lock file names; None for a new one, or one that says nothing."""
    try:
        return Owner(**json.loads(path.read_text()))
    except (ValueError, TypeError, FileNotFoundError):
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # no Linux
        return socket.gethostname()


def _started(process: int) -> str:
    """When a process of this machine started, in ticks since boot; empty where there is none."""
    try:
        # the name in parentheses may hold anything
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
