"""One process at a time, where processes share a disk; and a full or read-only disk as an error that can be mended."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock

from litespark.data.storage import Storage

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
_USER_CAN_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


@contextmanager
def locked(root: Storage, name: str) -> Iterator[None]:
    """Hold the lock file `.NAME.lock` below a root on this machine, waiting for whoever has it, and remove it.

    Nothing is locked below an address, or on a disk without locks: there no two processes disturb each other, since
    both write the same bytes at once, file by file. ValueError: the root cannot be made or written.
    """
    if root.remote:
        yield
        return
    path = root.local / f".{name}.lock"
    lock = FileLock(path)
    try:
        root.local.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise ValueError(
                f"data.root={root.local} cannot be made a folder or written: {error}. Set data.root to another."
            ) from error
    try:
        yield
    finally:
        path.unlink(
            missing_ok=True
        )  # `filelock` leaves it; whoever waits for it sees that it is gone, and makes it anew
        lock.release()


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
