"""LitData's token chunks: `prepare/chunk_writer.py` writes them, `stream/token_chunks.py` reads them.

The format is LitData's own (0.2.76): a chunk is a header of 32-bit numbers (how many items, then the byte offset of
each and of the end) and the ids of all items; `index.json` lists the chunks. LitData's `StreamingDataset` reads what is
written here. Its classes are not used: in that version its writer waits for an index of every rank, stamps the time
into `index.json` and does not fsync; its reader drops what is left of each chunk below a whole block and serves flipped
bytes; the order of its loaders depends on `num_workers`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from litespark.atomic import content_hash
from litespark.data.storage import Storage


@dataclass(frozen=True)
class ChunkRecord:
    """One chunk file as the manifest lists it: size in bytes, hash of its bytes, ids it holds."""

    file: str
    size: int
    sha256: str
    tokens: int


def token_dtype(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.int32]:
    """The narrowest type of LitData's that holds every id: uint16 up to 65,536 ids, else int32."""
    return np.dtype(np.uint16) if vocab_size <= 1 << 16 else np.dtype(np.int32)


def chunk_fault(folder: Storage, record: ChunkRecord, sizes: dict[str, int], *, hashed: bool) -> str | None:
    """How a chunk differs from its record, or None; `sizes` are of the files in its folder, `hashed` reads it."""
    size, where = sizes.get(record.file), folder.where(record.file)
    if size is None:
        return f"{where} is missing; the manifest lists it with {record.size} bytes"

    def digest() -> str:
        path = folder.where(record.file)
        return hashlib.sha256(folder.read(record.file)).hexdigest() if folder.remote else content_hash(Path(path))

    wrong = difference(record, size, digest if hashed else None)
    return None if wrong is None else f"{where} {wrong}"


def difference(record: ChunkRecord, size: int, digest: Callable[[], str] | None) -> str | None:
    """In what bytes of that size and SHA-256 (not asked for where it is None) differ from a record, or None."""
    if size != record.size:
        return f"has {size} bytes; the manifest says {record.size}"
    if digest is not None and (got := digest()) != record.sha256:
        return f"has SHA-256 {got}; the manifest says {record.sha256}"
    return None
