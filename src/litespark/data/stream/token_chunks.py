"""The token chunks of one domain as one flat array, on this machine or behind an address; see `data/chunks.py`."""

from collections import OrderedDict
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from litespark.data.chunks import ChunkRecord, chunk_fault, token_dtype
from litespark.data.storage import Storage
from litespark.data.stream.cache import ChunkCache

OPEN_CHUNKS = 64


class TokenChunks:
    """The ids of one domain of one split as one flat array over memory-mapped chunk files.

    `verify_hashes` hashes every chunk: here and now, or each time that a remote one is opened. The `cache` keeps the
    chunks of an address on this machine.
    """

    def __init__(
        self,
        folder: str | Path,
        records: list[ChunkRecord],
        *,
        vocab_size: int,
        verify_hashes: bool = False,
        cache: ChunkCache | None = None,
    ) -> None:
        storage = Storage(folder)
        self.folder = storage.address if storage.remote else storage.local
        self.records = records
        self.vocab_size = vocab_size
        self.verify_hashes = verify_hashes
        self.dtype = token_dtype(vocab_size)
        self.ends = np.cumsum([record.tokens for record in records], dtype=np.int64)
        self._cache = cache if storage.remote else None
        self._maps: OrderedDict[int, np.memmap] = OrderedDict()
        self._used: set[int] = set()
        sizes = {file.name: file.size for file in storage.files()}
        for record in records:
            if fault := chunk_fault(storage, record, sizes, hashed=verify_hashes and not storage.remote):
                raise ValueError(
                    f"{fault}. Copy the file again, or delete the prepared folder and prepare the data again."
                )
            if self._cache is not None:
                self._cache.check_size(record, storage.address)

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.records else 0

    def __getstate__(self) -> dict[str, object]:
        # a memory map pickles as the whole array; each worker opens its own
        return {**self.__dict__, "_maps": OrderedDict(), "_used": set()}

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """(count,) int64 ids from `start` on, across chunk borders; a ValueError names an id outside the vocabulary."""
        out = np.empty(count, dtype=np.int64)
        filled = 0
        chunk = int(np.searchsorted(self.ends, start, side="right"))
        while filled < count:
            begin = int(self.ends[chunk]) - self.records[chunk].tokens
            inside = start + filled - begin
            part = self._map(chunk)[inside : inside + count - filled]
            out[filled : filled + part.size] = part
            self._check_ids(out[filled : filled + part.size], chunk, inside)
            filled += part.size
            chunk += 1
        return out

    def _check_ids(self, ids: NDArray[np.int64], chunk: int, inside: int) -> None:
        wrong = (ids >= self.vocab_size) | (ids < 0)
        if wrong.any():
            place, record = int(np.argmax(wrong)), self.records[chunk]
            raise ValueError(
                f"{self.folder}/{record.file}: token {inside + place} has id {ids[place]}; expected 0 to "
                f"{self.vocab_size - 1}, the vocabulary of the manifest. The chunk is damaged: prepare the data again, "
                "or (of remote data) start with data.verify_hashes=true, which fetches damaged chunks again."
            )

    def _map(self, chunk: int) -> np.memmap:
        self._used.add(chunk)
        if chunk in self._maps:
            self._maps.move_to_end(chunk)
            return self._maps[chunk]
        record = self.records[chunk]
        offset = record.size - record.tokens * self.dtype.itemsize
        with self._open(chunk) as file:
            opened = np.memmap(file, dtype=self.dtype, mode="r", offset=offset, shape=(record.tokens,))
        self._maps[chunk] = opened
        if len(self._maps) > OPEN_CHUNKS:
            self._maps.popitem(last=False)
        return opened

    def _open(self, chunk: int) -> BufferedReader:
        record = self.records[chunk]
        if self._cache is None:
            return (Path(self.folder) / record.file).open("rb")
        # what this process reads through its maps looks unused to the cache
        self._cache.touch(self.records[used] for used in self._used)
        self._used = {chunk}
        file = self._cache.open(str(self.folder), record, verify_hash=self.verify_hashes)
        # a deleted file takes its room on the disk as long as it is mapped
        for held in [held for held in self._maps if not self._cache.path(self.records[held]).exists()]:
            del self._maps[held]
        return file
