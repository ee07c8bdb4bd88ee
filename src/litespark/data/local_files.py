"""Files on this machine, as a storage lists and writes them."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Listed:
    """One file below an address."""

    name: str
    """Its path below the address, with `/`."""
    size: int
    version: str
    """Changes when the file does: its time of modification, ETag or checksum, as far as the protocol has one."""
    regular: bool = True
    """False: a pipe, a socket or a device, which would be waited for."""


def path_from(typed: str | Path) -> Path:
    """A path with `~` for the home of a user; of one who is not known here it is kept as it is."""
    try:
        return Path(typed).expanduser()
    except RuntimeError:
        return Path(typed)


def files_below(folder: Path, prefix: str = "") -> Iterator[Listed]:
    """Every file below a folder, in no order; their names begin with the prefix.

    Links are followed, but not in a circle. One that leads nowhere is listed with 0 bytes, so that whoever reads it
    finds it missing.
    """
    return _walk(str(folder), os.path.realpath(folder), frozenset(), prefix)


def status(folder: Path, name: str) -> Listed:
    """What there is to say about one file; OSError where there is none."""
    path = folder / name
    if path.is_symlink() and not path.exists():
        return Listed(name, 0, "")
    found = path.stat()
    return Listed(name, found.st_size, str(found.st_mtime_ns), stat.S_ISREG(found.st_mode))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that, also after a loss of power, it is the old one or the new one and never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the process id alone: machines and containers that share a disk have the same ones
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _walk(folder: str, real: str, above: frozenset[str], prefix: str) -> Iterator[Listed]:
    """Every file below a folder; `real` is its path without links, `above` those of the folders that it is in."""
    above |= {real}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir():
                target = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}/{entry.name}"
                if target not in above:  # a circle of links
                    yield from _walk(entry.path, target, above, f"{name}/")
            elif entry.is_file():
                status = entry.stat()
                yield Listed(name, status.st_size, str(status.st_mtime_ns))
            else:
                yield Listed(name, 0, "", regular=not Path(entry.path).exists())
