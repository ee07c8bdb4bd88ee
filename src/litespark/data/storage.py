"""Files under one address, on this machine or behind any protocol that fsspec knows: `s3://`, `gs://`, `hf://`.

Here alone a path is told from an address, a lost connection is tried again, and a missing driver or a refused access
becomes an error that says what to do.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec

from litespark.data.local_files import Listed, files_below, path_from, status, write_whole

T = TypeVar("T")
log = logging.getLogger(__name__)

ATTEMPTS = 5
"""Of one request, before a lost connection is an error."""
FIRST_WAIT_SECONDS = 0.5
"""Before the second attempt; each later wait is twice as long."""
_INSTALL = {"s3": "pip install 'litespark[s3]'", "gs": "pip install gcsfs", "gcs": "pip install gcsfs"}
# Others write below the same address, so no listing is remembered. botocore's own attempts are left out: they would
# multiply with s3fs's and with those here, and a silent server would take hours to become an error.
_SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {"use_listings_cache": False, "config_kwargs": {"retries": {"max_attempts": 0}}},
    "gs": {"use_listings_cache": False},
}
# not a matter of the connection: asking again gives the same answer
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, ImportError)
_FINAL_NAMES = {
    *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError", "ParamValidationError"),
    *("GatedRepoError", "RepositoryNotFoundError", "OfflineModeIsEnabled"),
}
# whose errors are not all OSErrors
_NETWORK_LIBRARIES = {
    *("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "httpcore", "httpx", "httpx2", "huggingface_hub"),
    *("requests", "s3fs", "urllib3"),
}
_DISK_HERE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class StorageError(ValueError):
    """An address that cannot be read or written."""


def is_remote(address: str) -> bool:
    """Whether it names a protocol, rather than a path on this machine."""
    return "://" in address and not address.startswith("file://")


class Storage:
    """The files below one address.

    Args:
        address: a path, or `PROTOCOL://…`. Nothing has to be there yet.
        attempts: of one request, before a lost connection is an error; None: `ATTEMPTS`.

    Raises:
        StorageError: a protocol that fsspec does not know, or whose driver is not installed.
    """

    def __init__(self, address: str | Path, *, attempts: int | None = None) -> None:
        text = str(address).removeprefix("file://")
        self.remote = is_remote(text)
        self.address = text.rstrip("/") if self.remote else str(path_from(text))
        self._attempts = attempts
        self._connection: tuple[int, Any] | None = None
        if self.remote:
            self._root = self._connect()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}

    @property
    def local(self) -> Path:
        """The path of a storage on this machine."""
        assert not self.remote, self.address
        return Path(self.address)

    def below(self, name: str) -> Storage:
        """The storage of a folder below this one."""
        return Storage(f"{self.address}/{name}" if self.remote else self.local / name, attempts=self._attempts)

    def where(self, name: str) -> str:
        """The full address of a file, for messages."""
        return f"{self.address}/{name}" if self.remote else str(self.local / name)

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if not self.remote:
            return (self.local / name).is_file()

        def is_there() -> bool:  # fsspec's own isfile() takes a lost connection for a no
            try:
                return bool(self._system.info(self._path(name))["type"] == "file")
            except FileNotFoundError:
                return False

        return self._asked(name, is_there)

    def size(self, name: str) -> int:
        """Bytes of a file; StorageError where there is none."""
        if not self.remote:
            return self._asked(name, lambda: (self.local / name).stat().st_size)
        return int(self._asked(name, lambda: self._system.info(self._path(name))["size"]))

    def listed(self, name: str) -> Listed:
        """What a listing says of one file; StorageError where there is none."""
        if not self.remote:
            return self._asked(name, lambda: status(self.local, name))
        return self._listed(self._path(name), self._asked(name, lambda: self._system.info(self._path(name))))

    def files(self, folder: str = "") -> list[Listed]:
        """All files below a folder, sorted by name; none where the folder is missing.

        Links are followed. A link that leads nowhere is listed with 0 bytes, so that it is missed when it is read.
        """
        if not self.remote:
            top = self.local / folder
            prefix = f"{folder}/" if folder else ""
            found = files_below(top, prefix) if top.is_dir() else ()
            return sorted(self._asked(folder, lambda: list(found)), key=lambda file: file.name)
        infos: dict[str, Any] = self._asked(folder, lambda: self._system.find(self._path(folder), detail=True))
        return sorted((self._listed(path, info) for path, info in infos.items()), key=lambda file: file.name)

    def matching(self, pattern: str) -> list[Listed]:
        """The files that a glob names (`**` is any number of folders), and all below the folders that it names."""
        if not self.remote:
            paths = {path.relative_to(self.local).as_posix(): path for path in self.local.glob(pattern)}
            folders = [name for name, path in paths.items() if path.is_dir()]
            listed = [status(self.local, name) for name, path in paths.items() if not path.is_dir()]
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
            return self._asked(name, self._local_file(name).read_bytes)
        return bytes(self._asked(name, lambda: self._system.cat_file(self._path(name))))

    def _local_file(self, name: str) -> Path:
        path = self.local / name
        if path.exists() and not (path.is_file() or path.is_dir()):  # whoever opens it waits for ever
            raise StorageError(f"{path} is a pipe, a socket or a device, expected a file")
        return path

    def head(self, name: str, count: int) -> bytes:
        """The first so many bytes of a file that is not empty."""
        if not self.remote:

            def read() -> bytes:
                with self._local_file(name).open("rb") as file:
                    return file.read(count)

            return self._asked(name, read)
        return bytes(self._asked(name, lambda: self._system.cat_file(self._path(name), start=0, end=count)))

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file at once: a reader sees the old content or the new, also after a loss of power."""
        if not self.remote:
            self._asked(name, lambda: write_whole(self.local / name, content))
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
        # not the process id: machines and containers that share a disk have the same ones
        partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
        partial.touch()  # what is wrong here is not taken for what is wrong there

        def get() -> None:
            if self.remote:
                self._system.get_file(self._path(name), str(partial))
            else:
                shutil.copyfile(self.local / name, partial)
            if size is not None and (got := partial.stat().st_size) != size:
                self._require_size(name, size)
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

    def _require_size(self, name: str, size: int) -> None:
        if (there := self.size(name)) != size:
            raise StorageError(
                f"{self.where(name)} has {there} bytes, expected {size}: it has changed, or was not written whole. "
                "Start again when it is."
            )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _listed(self, path: str, info: dict[str, Any]) -> Listed:
        version = next(
            (info[key] for key in ("ETag", "etag", "md5Hash", "blob_id", "mtime", "created") if key in info), ""
        )
        return Listed(PurePosixPath(path).relative_to(self._root).as_posix(), int(info["size"] or 0), str(version))

    @property
    def _system(self) -> Any:
        # what fsspec has connected does not survive a fork
        if self._connection is None or self._connection[0] != os.getpid():
            self._connect()
        assert self._connection is not None
        return self._connection[1]

    def _connect(self) -> str:
        """Find the file system of the address; returns what it calls the address."""
        protocol = self.address.split("://", 1)[0]
        try:
            system, root = fsspec.core.url_to_fs(self.address, **_SETTINGS.get(protocol, {}))
        except ImportError as error:
            install = _INSTALL.get(protocol, f"the fsspec driver for {protocol}://")
            raise StorageError(f"{self.address}: {error}. Install what reads it: {install}") from error
        except ValueError as error:
            raise StorageError(
                f"{self.address}: {error}. Expected a path, or an address such as s3://BUCKET/FOLDER"
            ) from error
        self._connection = os.getpid(), system
        return str(root).rstrip("/")

    def _asked(self, name: str, request: Callable[[], T]) -> T:
        """The answer to a request, asked again while the connection fails; on this machine once.

        Raises:
            StorageError: it is refused, or there was no answer after all attempts.
            OSError: the fault is on this machine, such as a full disk.
        """
        attempts = self._attempts or ATTEMPTS
        for attempt in range(1, attempts + 1):
            try:
                return request()
            except Exception as error:
                if _is_final(error):
                    raise StorageError(
                        f"{self.where(name)}: {_said(error)}. Check the address and the access to it."
                    ) from error
                if not self.remote or not _is_of_the_connection(error):
                    raise
                if attempt == attempts:
                    raise StorageError(
                        f"{self.where(name)}: {_said(error)}, {attempts} times in a row. Check the connection and "
                        "start again: what is done already is kept."
                    ) from error
                wait = FIRST_WAIT_SECONDS * 2 ** (attempt - 1)
                log.warning("%s: %s; trying again in %g s", self.where(name), _said(error), wait)
                time.sleep(wait)
        raise AssertionError("unreachable")


def content_hash(path: Path) -> str:
    """SHA-256 of a file as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_final(error: Exception) -> bool:
    return isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES


def _is_of_the_connection(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno not in _DISK_HERE
    return type(error).__module__.split(".")[0] in _NETWORK_LIBRARIES


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
