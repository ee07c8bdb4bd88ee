"""One process at a time, where processes share a disk; and a full or read-only disk as an error that can be mended."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from litespark.data.storage import Storage

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
_USER_CAN_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


@contextmanager
def locked(root: Storage, name: str) -> Iterator[None]:
    """Hold the lock file `.NAME.lock` below a root on this machine, waiting for whoever has it, and remove it.

    The kernel frees it when its holder dies, by kill -9 too. Nothing is locked below an address: there no two
    processes disturb each other, since both write the same bytes at once, file by file.

    Raises:
        ValueError: the root cannot be made or written.
    """
    if root.remote:
        yield
        return
    try:
        root.local.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"data.root={root.local} cannot be made a folder: {error}. Set data.root to one.") from error
    path = root.local / f".{name}.lock"
    try:
        lock = acquired(path, wait=True)
    except OSError as error:
        raise ValueError(f"{path.parent} cannot be written: {error}. Set data.root to another folder.") from error
    assert lock is not None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # whoever waits sees that it is gone, and makes it anew
        lock.release()


def acquired(path: Path, *, wait: bool) -> FileLock | None:
    """The lock at `path`, held until it is released; None where another process has it and `wait` is False.

    Where the disk has no locks everybody gets it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return lock


@contextmanager
def mendable_faults_of_disk(place: str) -> Iterator[None]:
    """Turn a full disk, a quota or a missing permission into a ValueError that names the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _USER_CAN_MEND:
            raise
        raise ValueError(
            f"{place} cannot be written: {error}. Make room, or set data.root to another folder. What was finished is "
            "kept: the same command continues."
        ) from error
