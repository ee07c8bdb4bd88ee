"""Token chunks in LitData's format, one document an item; `data/chunks.py` describes the format and reads it."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litespark.data.chunks import ChunkRecord, token_dtype
from litespark.data.storage import Storage

INDEX = "index.json"
_LONGEST_FOLDER = 100


@dataclass(frozen=True)
class WrittenChunk:
    """A chunk, with the number of its items, which LitData's index states."""

    record: ChunkRecord
    items: int


class ChunkWriter:
    """Writes items into chunks of exactly `chunk_tokens` ids (the last is shorter): `chunk-UNIT-K.bin` for K = 0, 1, ….

    An item that does not fit continues in the next chunk, as another item there. One chunk is held in memory.
    """

    def __init__(self, folder: Storage, unit: int, *, vocab_size: int, chunk_tokens: int) -> None:
        self.folder = folder
        self.unit = unit
        self.dtype = token_dtype(vocab_size)
        self.chunk_tokens = chunk_tokens
        self.written: list[WrittenChunk] = []
        self._items: list[NDArray[np.generic]] = []
        self._held = 0

    def add(self, item: NDArray[np.generic]) -> None:
        """Append one item, such as the ids of a document with its EOS; (n,) of `self.dtype`."""
        rest = item
        while rest.size:
            part = rest[: self.chunk_tokens - self._held]
            self._items.append(part)
            self._held += part.size
            rest = rest[part.size :]
            if self._held == self.chunk_tokens:
                self._flush()

    def close(self) -> list[WrittenChunk]:
        """Write the last chunk; returns all of them."""
        if self._items:
            self._flush()
        return self.written

    def _flush(self) -> None:
        sizes = np.array([item.nbytes for item in self._items], dtype=np.int64)
        start = 4 * (1 + len(self._items) + 1)
        offsets = start + np.concatenate([[0], np.cumsum(sizes)])
        header = np.concatenate([[len(self._items)], offsets]).astype(np.uint32)
        data = header.tobytes() + np.concatenate(self._items).tobytes()
        file = f"chunk-{self.unit}-{len(self.written)}.bin"
        self.folder.write(file, data)
        record = ChunkRecord(file, len(data), hashlib.sha256(data).hexdigest(), self._held)
        self.written.append(WrittenChunk(record, len(self._items)))
        self._items, self._held = [], 0


def index_content(chunks: Iterable[WrittenChunk], *, vocab_size: int, chunk_tokens: int) -> bytes:
    """LitData's `index.json` of a folder with these chunks."""
    listed = list(chunks)
    dtype = token_dtype(vocab_size)
    config = {
        "chunk_bytes": chunk_tokens * dtype.itemsize,
        "chunk_size": None,
        "compression": None,
        # LitData numbers its types; 2 is int32 and 5 is uint16 in its list of NumPy types
        "data_format": [f"no_header_numpy:{5 if dtype == np.uint16 else 2}"],
        "data_spec": '[1, {"type": null, "context": null, "children_spec": []}]',
        "encryption": None,
        "item_loader": "TokensLoader",
    }
    # LitData renews a cache when this changes; the content stands in for a time
    content = hashlib.sha256("".join(chunk.record.sha256 for chunk in listed).encode()).hexdigest()
    entries = [
        {
            "chunk_bytes": chunk.record.size,
            "chunk_size": chunk.items,
            "dim": chunk.record.tokens,
            "filename": chunk.record.file,
        }
        for chunk in listed
    ]
    return json.dumps({"chunks": entries, "config": config, "updated_at": content}, sort_keys=True).encode()


def domain_folder(domain: str) -> str:
    """A folder's name for a domain, another one for each; unusual characters become `=` and hexadecimal."""
    quoted = re.sub(rb"[^A-Za-z0-9_.-]|^\.", lambda match: b"=%02X" % match[0][0], domain.encode()).decode() or "="
    if len(quoted) <= _LONGEST_FOLDER:
        return quoted
    return f"{quoted[:_LONGEST_FOLDER]}=={hashlib.sha256(domain.encode()).hexdigest()[:16]}"
