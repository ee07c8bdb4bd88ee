"""Chunk files with nothing but ids in them, for tests of what reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from litespark.data.chunks import ChunkRecord


def write_chunks(folder: Path, *parts: list[int]) -> list[ChunkRecord]:
    """One chunk a part, of uint16 ids, as the manifest would list them."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number, part in enumerate(parts):
        content = np.array(part, dtype=np.uint16).tobytes()
        file = f"chunk-0-{number}.bin"
        (folder / file).write_bytes(content)
        records.append(ChunkRecord(file, len(content), hashlib.sha256(content).hexdigest(), len(part)))
    return records
