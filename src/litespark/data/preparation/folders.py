"""A folder that exists whole or not at all, built by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_USER_CAN_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


def build_folder(target: Path, write: Callable[[Path], None], *, needed_bytes: int, purpose: str) -> None:
    """Let `write` fill a hidden folder beside `target`, flush it to disk and rename it to `target`.

    A second process that builds the same waits, and finds it. A process that dies leaves a hidden folder at most, which
    the next one removes.

    Args:
        target: the folder to build; nothing happens where it exists.
        write: fills the folder that it is given.
        needed_bytes: estimated size; refused before anything is written where the disk has less.
        purpose: what is built, for the errors.

    Raises:
        ValueError: the parent cannot be made or written, or there is too little space.
    """
    root = target.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"data.root={root} cannot be made a folder: {error}. Set data.root to one.") from error
    with _lock(root / f".{target.name}.lock"):
        if target.is_dir():
            return
        partial = root / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # whoever left it is dead: its lock was free
        free = shutil.disk_usage(root).free
        if free < needed_bytes:
            raise ValueError(
                f"{root} has {free / 1e9:.2f} GB free; {purpose} needs about {needed_bytes / 1e9:.2f} GB. "
                "Make room, or set data.root to a folder on another disk."
            )
        try:
            partial.mkdir()
            write(partial)
            _flush_to_disk(partial)
            partial.rename(target)
            _flush_entry(root)
        except OSError as error:
            if error.errno not in _USER_CAN_MEND:
                raise
            raise ValueError(
                f"{partial} cannot be written: {error}. Make room, or set data.root to another folder."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock file, and remove it; the kernel frees it when its holder dies, by kill -9 too."""
    while True:
        try:
            file = path.open("w")
        except OSError as error:
            raise ValueError(f"{path.parent} cannot be written: {error}. Set data.root to another folder.") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # who held it before has removed it: the name may be a new file by now, which somebody else locks
            if not _is_still(path, file.fileno()):
                continue
            try:
                yield
            finally:
                path.unlink()
            return


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _flush_to_disk(folder: Path) -> None:
    for found in folder.rglob("*"):
        _flush_entry(found)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
