"""Files and folders that are written whole or not at all, and the hash of a file."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file as of `written_whole`; its folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path`, at which the block makes a file or a folder that then takes its place.

    So `path` is, also after a loss of power, the old one or the new one and never a part of it. An error, also an
    OSError where it cannot be written, leaves what was there; so does a folder there that is not empty.
    """
    # not the process id: machines and containers that share a disk have the same ones
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        yield partial
        flush_tree(partial)
        put(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def flush_tree(path: Path) -> None:
    """Flush to the disk a file, or a folder and all below it."""
    for below in (*path.rglob("*"), path):
        _flush(below)


def put(partial: Path, path: Path) -> None:
    """Rename what is flushed to its place, for good."""
    partial.replace(path)
    _flush(path.parent)


def content_hash(path: Path) -> str:
    """SHA-256 of a file as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
