"""A bounded folder of chunks that came from remote data, shared by runs, ranks and loader workers of one machine.

`CACHE/chunks/SHA256.bin` holds whole chunks under the hash of their content; `CACHE/data_sets` holds the manifests.
Processes agree through file locks, which the kernel frees when their holder dies. When the chunks exceed the limit,
those that were used longest ago are deleted; a reader of one keeps it open. So the folder may exceed its limit by the
chunks under way, one a process at most; what a killed process left goes when that chunk is fetched again. fsspec's own
caches (2026.9) have no limit in bytes; LitData's (0.2) deletes each chunk that was read, once a data set exceeds the
limit.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from filelock import FileLock

from litespark.data import manifest as manifests
from litespark.data import tokenizer_files as tokenizers
from litespark.data.chunks import ChunkRecord, difference
from litespark.data.local_files import path_from
from litespark.data.storage import Storage
from litespark.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_LOCKS = 64
_TRIES = 8
"""To open a chunk, each second one after a fetch."""
_FILE = re.compile(r"[0-9a-f]{64}\.bin")
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ChunkCache:
    """`data.cache`, a folder that is made where there is none, bounded by `data.cache_bytes`.

    It pickles and survives a fork. A ValueError names the setting where the folder cannot be used.
    """

    def __init__(self, folder: str | Path, limit_bytes: int) -> None:
        self.folder = path_from(folder).resolve()
        self.limit_bytes = limit_bytes
        self._chunks = self.folder / "chunks"
        self._locks = self.folder / "locks"
        with self._mendable_faults():
            self._chunks.mkdir(parents=True, exist_ok=True)
            self._locks.mkdir(exist_ok=True)

    def path(self, record: ChunkRecord) -> Path:
        """Where a chunk is while the cache has it; may be deleted at any time by any process."""
        return self._chunks / f"{record.sha256}.bin"

    def open(self, address: str, record: ChunkRecord, *, verify_hash: bool) -> BufferedReader:
        """A chunk of the folder at `address`, whole, open to read; fetched where the cache does not have it.

        A cached chunk of another size (or other bytes, with `verify_hash`) is fetched again.
        """
        path, told = self.path(record), ""
        for _ in range(_TRIES):
            try:
                file = path.open("rb")
            except FileNotFoundError:  # or deleted, for another process, before it was opened
                self._fetch(address, record)
                continue
            fault = _fault(file, record, verify_hash)
            if fault is None:
                with suppress(PermissionError):  # a cache of another user still serves
                    os.utime(file.fileno())
                return file
            file.close()
            log.warning("%s %s; it is fetched again", path, fault)
            path.unlink(missing_ok=True)
            told = f"{fault}. The chunk is damaged at its source: copy it again or prepare the data again."
        told = told or f"was deleted from data.cache={self.folder} each time; set data.cache_bytes higher."
        raise ValueError(f"{address}/{record.file}, fetched {_TRIES // 2} times, {told}")

    def touch(self, records: Iterable[ChunkRecord]) -> None:
        """State that chunks were used just now; those that the cache does not have are passed over."""
        for record in records:
            with suppress(FileNotFoundError, PermissionError):
                os.utime(self.path(record))

    def check_size(self, record: ChunkRecord, address: str) -> None:
        """Raise the ValueError for a chunk that the cache can never hold."""
        if record.size > self.limit_bytes:
            raise ValueError(
                f"data.cache_bytes={self.limit_bytes} is less than one chunk: {address}/{record.file} has "
                f"{record.size} bytes. Set data.cache_bytes to many times that."
            )

    def data_set(self, address: str) -> Path:
        """A folder with the manifest and tokenizer of the prepared folder at `address`, as they are now."""
        manifest, source = manifests.Manifest.read(address), Storage(address)
        folder = self.folder / "data_sets" / f"{address.rstrip('/').rsplit('/', 1)[-1]}-{manifest.hash[:12]}"
        if (folder / manifests.FILE).is_file():
            return folder
        with self._mendable_faults():
            folder.mkdir(parents=True, exist_ok=True)
            tokenizer = tokenizers.MODEL_FILE if source.exists(tokenizers.MODEL_FILE) else tokenizers.FILE
            for file in (tokenizer, tokenizers.CONFIG_FILE):
                source.fetch(file, folder / file)
            if (digest := Tokenizer.load(folder).hash) != manifest.tokenizer_hash:
                raise ValueError(
                    f"{source.where(tokenizer)} has the hash {digest}; the manifest says "
                    f"{manifest.tokenizer_hash}. It is another tokenizer, or damaged: copy it again, or prepare the "
                    "data again."
                )
            source.fetch(manifests.FILE, folder / manifests.FILE)  # the last one: with it the copy is whole
        return folder

    def _fetch(self, address: str, record: ChunkRecord) -> None:
        with self._mendable_faults(), self._lock(_lock_name(record.sha256)):
            if self.path(record).exists():
                return  # another process brought it while this one waited
            for stale in self._chunks.glob(f".{record.sha256}.bin.*.partial"):
                stale.unlink(missing_ok=True)
            self._make_room(record.size)
            free = shutil.disk_usage(self._chunks).free
            if free < record.size:
                raise OSError(errno.ENOSPC, f"{record.file} needs {record.size} bytes, {free} are free")
            Storage(address).fetch(record.file, self.path(record), size=record.size)
            self._make_room(0)

    def _make_room(self, coming: int) -> None:
        """Delete what was used longest ago until `coming` bytes fit under the limit."""
        with self._lock("eviction"):
            files = sorted(self._held())
            held = sum(size for _, _, size in files)
            for _, name, size in files:
                if held + coming <= self.limit_bytes:
                    return
                (self._chunks / name).unlink(missing_ok=True)
                held -= size

    def _held(self) -> Iterator[tuple[int, str, int]]:
        """(time of last use, name, bytes) of every file that is ours."""
        with os.scandir(self._chunks) as entries:
            for entry in entries:
                if _FILE.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        yield status.st_mtime_ns, entry.name, status.st_size

    def _lock(self, name: str) -> FileLock:
        return FileLock(self._locks / name)

    @contextmanager
    def _mendable_faults(self) -> Iterator[None]:
        """Turn a full disk or a missing permission here, not there, into a ValueError that names the key to set."""
        try:
            yield
        except (OSError, ValueError) as error:
            here = error if isinstance(error, OSError) else error.__cause__
            if isinstance(error, OSError) or (isinstance(here, OSError) and here.errno in _DISK_IS_FULL):
                raise ValueError(
                    f"data.cache={self.folder} cannot be used ({here}). Make room, set data.cache to another folder, "
                    f"or set data.cache_bytes={self.limit_bytes} lower."
                ) from error
            raise


def _lock_name(sha256: str) -> str:
    # few files that stay, rather than one for each chunk that somebody has to delete
    return f"chunk-{int(sha256[:8], 16) % _LOCKS:02}"


def _fault(file: BufferedReader, record: ChunkRecord, verify_hash: bool) -> str | None:
    def digest() -> str:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        return found

    return difference(record, os.fstat(file.fileno()).st_size, digest if verify_hash else None)
