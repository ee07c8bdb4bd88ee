"""Files under one address, on this machine or behind any protocol that fsspec knows: `s3://`, `gs://`, `hf://`.

Here alone a path is told from an address, a lost connection is tried again, and a missing driver or a refused access
becomes an error that says what to do.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec

T = TypeVar("T")

ATTEMPTS = 5
"""Of one request, before a lost connection is an error."""
FIRST_WAIT_SECONDS = 0.5
"""Before the second attempt; each later wait is twice as long."""
_INSTALL = {"s3": "pip install 'litespark[s3]'", "gs": "pip install gcsfs", "gcs": "pip install gcsfs"}
# not a matter of the connection: asking again gives the same answer
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, ImportError)


class StorageError(ValueError):
    """An address that cannot be read or written."""


@dataclass(frozen=True)
class Listed:
    """One file below an address."""

    name: str
    """Its path below the address, with `/`."""
    size: int
    version: str
    """Changes when the file does: its time of modification, ETag or checksum, as far as the protocol has one."""


def is_remote(address: str) -> bool:
    """Whether it names a protocol, rather than a path on this machine."""
    return "://" in address and not address.startswith("file://")


class Storage:
    """The files below one address.

    Args:
        address: a path, or `PROTOCOL://…`. Nothing has to be there yet.

    Raises:
        StorageError: a protocol that fsspec does not know, or whose driver is not installed.
    """

    def __init__(self, address: str | Path) -> None:
        text = str(address).removeprefix("file://")
        self.remote = is_remote(text)
        self.address = text.rstrip("/") if self.remote else str(Path(text).expanduser())
        self._system: Any = None
        if self.remote:
            self._system, self._root = _file_system(self.address)

    @property
    def local(self) -> Path:
        """The path of a storage on this machine."""
        assert not self.remote, self.address
        return Path(self.address)

    def below(self, name: str) -> Storage:
        """The storage of a folder below this one."""
        return Storage(f"{self.address}/{name}" if self.remote else self.local / name)

    def where(self, name: str) -> str:
        """The full address of a file, for messages."""
        return f"{self.address}/{name}" if self.remote else str(self.local / name)

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if not self.remote:
            return (self.local / name).is_file()
        return bool(self._asked(name, lambda: self._system.isfile(self._path(name))))

    def size(self, name: str) -> int:
        """Bytes of a file; StorageError where there is none."""
        if not self.remote:
            return self._asked(name, lambda: (self.local / name).stat().st_size)
        return int(self._asked(name, lambda: self._system.info(self._path(name))["size"]))

    def listed(self, name: str) -> Listed:
        """What a listing says of one file; StorageError where there is none."""
        if not self.remote:
            return self._asked(name, lambda: _status(self.local, name))
        return self._listed(self._path(name), self._asked(name, lambda: self._system.info(self._path(name))))

    def files(self, folder: str = "") -> list[Listed]:
        """All files below a folder, sorted by name; none where the folder is missing.

        Links are followed. A link that leads nowhere is listed with 0 bytes, so that it is missed when it is read.
        """
        if not self.remote:
            top = self.local / folder
            prefix = f"{folder}/" if folder else ""
            found = _below(str(top), os.path.realpath(top), prefix=prefix) if top.is_dir() else ()
            return sorted(self._asked(folder, lambda: list(found)), key=lambda file: file.name)
        infos: dict[str, Any] = self._asked(folder, lambda: self._system.find(self._path(folder), detail=True))
        return sorted((self._listed(path, info) for path, info in infos.items()), key=lambda file: file.name)

    def matching(self, pattern: str) -> list[Listed]:
        """The files that a glob names (`**` is any number of folders), and all below the folders that it names."""
        if not self.remote:
            paths = {path.relative_to(self.local).as_posix(): path for path in self.local.glob(pattern)}
            folders = [name for name, path in paths.items() if path.is_dir()]
            listed = [_status(self.local, name) for name, path in paths.items() if not path.is_dir()]
        else:
            infos: dict[str, Any] = self._asked(pattern, lambda: self._system.glob(self._path(pattern), detail=True))
            below = {self._listed(path, info): info["type"] == "directory" for path, info in infos.items()}
            folders = [file.name for file, is_folder in below.items() if is_folder]
            listed = [file for file, is_folder in below.items() if not is_folder]
        found = {file.name: file for folder in folders for file in self.files(folder)}
        found |= {file.name: file for file in listed}
        return sorted(found.values(), key=lambda file: file.name)

    def read(self, name: str) -> bytes:
        """The content of a small file."""
        if not self.remote:
            return self._asked(name, lambda: (self.local / name).read_bytes())
        return bytes(self._asked(name, lambda: self._system.cat_file(self._path(name))))

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file at once: a reader sees the old content or the new, also after a loss of power."""
        if not self.remote:
            self._asked(name, lambda: _write_whole(self.local / name, content))
        else:
            self._asked(name, lambda: self._system.pipe_file(self._path(name), content))

    def fetch(self, name: str, target: Path, *, size: int | None = None) -> None:
        """Copy a file to a path of this machine, which then is whole or not there.

        Args:
            name: the file.
            target: where to; its folder exists.
            size: bytes that it must have; fewer or more are a broken transfer, and tried again.

        Raises:
            StorageError: missing, refused, or not had whole after all attempts.
        """
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")

        def get() -> None:
            if self.remote:
                self._system.get_file(self._path(name), str(partial))
            else:
                partial.write_bytes((self.local / name).read_bytes())
            if size is not None and (got := partial.stat().st_size) != size:
                raise OSError(f"got {got} bytes, expected {size}")
            partial.rename(target)

        try:
            self._asked(name, get)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens where there is none."""
        if not self.remote:
            (self.local / name).unlink(missing_ok=True)
        elif self.exists(name):
            self._asked(name, lambda: self._system.rm_file(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _listed(self, path: str, info: dict[str, Any]) -> Listed:
        version = next(
            (info[key] for key in ("ETag", "etag", "md5Hash", "blob_id", "mtime", "created") if key in info), ""
        )
        return Listed(PurePosixPath(path).relative_to(self._root).as_posix(), int(info["size"] or 0), str(version))

    def _asked(self, name: str, request: Callable[[], T]) -> T:
        """The answer to a request, asked again while the connection fails; on this machine once."""
        for attempt in range(ATTEMPTS):
            try:
                return request()
            except _FINAL as error:
                raise StorageError(
                    f"{self.where(name)}: {_said(error)}. Check the address and the access to it."
                ) from error
            except OSError as error:
                if not self.remote:
                    raise
                if attempt == ATTEMPTS - 1:
                    raise StorageError(
                        f"{self.where(name)}: {_said(error)}, {ATTEMPTS} times in a row. Check the connection and "
                        "start again: what is done already is kept."
                    ) from error
                self._system.invalidate_cache()
                time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError("unreachable")


def content_hash(path: Path) -> str:
    """SHA-256 of a file as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_system(address: str) -> tuple[Any, str]:
    protocol = address.split("://", 1)[0]
    try:
        system, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        install = _INSTALL.get(protocol, f"the fsspec driver for {protocol}://")
        raise StorageError(f"{address}: {error}. Install what reads it: {install}") from error
    except ValueError as error:
        raise StorageError(f"{address}: {error}. Expected a path, or an address such as s3://BUCKET/FOLDER") from error
    return system, root.rstrip("/")


def _below(folder: str, real: str, above: frozenset[str] = frozenset(), prefix: str = "") -> Iterator[Listed]:
    """Every file below a folder; `real` is its path without links, `above` those of the folders that it is in."""
    above |= {real}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir():
                target = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}/{entry.name}"
                if target not in above:  # a circle of links
                    yield from _below(entry.path, target, above, f"{name}/")
            elif entry.is_file():
                status = entry.stat()
                yield Listed(name, status.st_size, str(status.st_mtime_ns))
            elif entry.is_symlink():
                yield Listed(name, 0, "")


def _status(folder: Path, name: str) -> Listed:
    path = folder / name
    if path.is_symlink() and not path.exists():
        return Listed(name, 0, "")
    status = path.stat()
    return Listed(name, status.st_size, str(status.st_mtime_ns))


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
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


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
