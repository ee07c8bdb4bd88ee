"""Files under one address, on this machine or behind any protocol of fsspec: `s3://`, `gs://`, `hf://`.

Lost connections are tried again; a missing driver or a refused access is an error that names the remedy.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from litespark.atomic import written_whole
from litespark.data.local_files import LocalFiles, StorageError, path_from

T = TypeVar("T")
log = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.5
_INSTALL = {"s3": "pip install 'litespark[s3]'", "gs": "pip install gcsfs", "gcs": "pip install gcsfs"}
# Others write below the same address, so no listing is remembered. botocore's own attempts are left out: they would
# multiply with s3fs's and with those here, and a silent server would take hours to become an error.
_SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {"use_listings_cache": False, "config_kwargs": {"retries": {"max_attempts": 0}}},
    "gs": {"use_listings_cache": False},
}
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "created")
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


@dataclass(frozen=True)
class Listed:
    """One file below an address."""

    name: str
    size: int
    version: str
    """Changes when the file does: its time of modification, ETag or checksum, as far as the protocol has one."""


def is_remote(address: str) -> bool:
    """Whether it names a protocol, rather than a path on this machine."""
    return "://" in address and not address.startswith("file://")


class Storage:
    """The files below one address, a path or `PROTOCOL://…`; nothing has to be there yet.

    StorageError: an unknown protocol, or one whose driver is not installed; from each request, what is missing,
    refused, or not answered after `attempts` (None: `ATTEMPTS`).
    """

    def __init__(self, address: str | Path, *, attempts: int | None = None) -> None:
        text = str(address).removeprefix("file://")
        self.remote = is_remote(text)
        self.address = text.rstrip("/") if self.remote else str(path_from(text))
        self._attempts = attempts
        self._connection: tuple[int, Any] | None = None
        self._root = self._connect()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}

    @property
    def local(self) -> Path:
        assert not self.remote, self.address
        return Path(self.address)

    def below(self, name: str) -> Storage:
        return Storage(self.where(name), attempts=self._attempts)

    def where(self, name: str) -> str:
        return f"{self.address}/{name}" if self.remote else str(self.local / name)

    def exists(self, name: str) -> bool:

        def is_there() -> bool:  # isfile() of fsspec 2026.9 takes a lost connection for a no
            try:
                return bool(self._system.info(self._path(name))["type"] == "file")
            except (FileNotFoundError, NotADirectoryError):
                return False

        return self._asked(name, is_there)

    def listed(self, name: str) -> Listed:
        return self._listed(self._path(name), self._asked(name, lambda: self._system.info(self._path(name))))

    def files(self, folder: str = "") -> list[Listed]:
        """All files below a folder, sorted by name; none where the folder is missing."""
        infos: dict[str, Any] = self._asked(folder, lambda: self._system.find(self._path(folder), detail=True))
        return sorted((self._listed(path, info) for path, info in infos.items()), key=lambda file: file.name)

    def matching(self, pattern: str) -> list[Listed]:
        """The files that a glob names (`**` is any number of folders), and all below the folders that it names."""
        if self.remote:
            infos: dict[str, Any] = self._asked(pattern, lambda: self._system.glob(self._path(pattern), detail=True))
        else:  # the folder's own name may hold a bracket
            paths = (str(path) for path in self.local.glob(pattern) if not path.is_fifo())
            infos = {path: self._system.info(path) for path in paths}
        names: dict[str, Listed] = {}
        for path, info in infos.items():
            file = self._listed(path, info)
            below = self.files(file.name) if info["type"] == "directory" else [file]
            names |= {file.name: file for file in below}
        return [names[name] for name in sorted(names)]

    def read(self, name: str) -> bytes:
        return bytes(self._asked(name, lambda: self._system.cat_file(self._path(name))))

    def head(self, name: str, count: int) -> bytes:
        return bytes(self._asked(name, lambda: self._system.cat_file(self._path(name), start=0, end=count)))

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that a reader sees the old content or the new, also after a loss of power."""
        self._asked(name, lambda: self._system.pipe_file(self._path(name), content))

    def fetch(self, name: str, target: Path, *, size: int | None = None) -> None:
        """Copy a file to a path of this machine, in a folder that exists; it then is whole or not there.

        Fewer or more bytes than `size` are a broken transfer, and tried again.
        """

        def get(partial: Path) -> None:
            self._system.get_file(self._path(name), str(partial))
            if size is not None and (got := partial.stat().st_size) != size:
                if (there := self.listed(name).size) != size:
                    raise StorageError(
                        f"{self.where(name)} has {there} bytes, expected {size}: it has changed, or was not written "
                        "whole. Start again when it is."
                    )
                raise OSError(f"got {got} bytes, expected {size}")

        # get_file of fsspec 2026.9 leaves part of a file under its final name
        with written_whole(target) as partial:
            partial.touch()  # what is wrong here is not taken for what is wrong there
            self._asked(name, lambda: get(partial))

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens where there is none."""
        if self.exists(name):
            self._asked(name, lambda: self._system.rm_file(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _listed(self, path: str, info: dict[str, Any]) -> Listed:
        version = next((info[key] for key in _VERSION_KEYS if key in info), "")
        name = PurePosixPath(path).relative_to(self._root).as_posix()
        return Listed(name, int(info["size"] or 0), str(version))

    @property
    def _system(self) -> Any:
        # what fsspec has connected does not survive a fork
        if self._connection is None or self._connection[0] != os.getpid():
            self._connect()
        assert self._connection is not None
        return self._connection[1]

    def _connect(self) -> str:
        """Find the file system of the address; returns what it calls the address."""
        if not self.remote:
            self._connection = os.getpid(), LocalFiles()
            return self.address
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
        """The answer to a request, asked again while the connection fails; OSError: the fault is on this machine."""
        attempts = self._attempts or ATTEMPTS
        where = self.where(name)

        try:
            return Retrying(
                retry=retry_if_exception(lambda error: self.remote and _is_of_the_connection(error)),
                stop=stop_after_attempt(attempts),
                wait=wait_exponential(multiplier=FIRST_WAIT_SECONDS),
                before_sleep=functools.partial(_announce, where),
                reraise=True,
            )(request)
        except Exception as error:
            if _is_final(error):
                raise StorageError(f"{where}: {_described(error)}. Check the address and the access to it.") from error
            if self.remote and _is_of_the_connection(error):
                raise StorageError(
                    f"{where}: {_described(error)}, {attempts} times in a row. Check the connection and start again: "
                    "what is done already is kept."
                ) from error
            raise


def _announce(where: str, state: RetryCallState) -> None:
    assert state.outcome is not None
    assert state.next_action is not None
    log.warning("%s: %s; trying again in %g s", where, _described(state.outcome.exception()), state.next_action.sleep)


def _is_final(error: BaseException) -> bool:
    return isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES


def _is_of_the_connection(error: BaseException) -> bool:
    if _is_final(error):
        return False
    if isinstance(error, OSError):
        return error.errno not in _DISK_HERE
    return type(error).__module__.split(".")[0] in _NETWORK_LIBRARIES


def _described(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
