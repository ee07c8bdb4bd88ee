"""Prepared folders with several domains, written id by id, for the tests of reading."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litespark.data.chunks import ChunkRecord, token_dtype
from litespark.data.dropped import DroppedDocuments
from litespark.data.manifest import DomainCounts, SplitCounts
from litespark.data.storage import Storage
from tests.data.prepared_manifest import manifest

EOS = 0
VOCABULARY = 60_000


def ids_of(count: int, first: int, *, document: int = 11) -> NDArray[np.int64]:
    """`count` ids that count up from `first`, with EOS at the end of each `document` ids."""
    ids = np.arange(first, first + count, dtype=np.int64)
    ids[document - 1 :: document] = EOS
    return ids


def write_domains(
    folder: Path, splits: Mapping[str, Mapping[str, NDArray[np.int64]]], *, chunk_tokens: int = 100, **stated: Any
) -> Path:
    """A prepared folder that holds these ids by split and domain; `stated` goes into the manifest."""
    written = {
        split: SplitCounts(
            {name: _write_domain(folder / split / name, ids, chunk_tokens) for name, ids in sorted(domains.items())}
        )
        for split, domains in splits.items()
    }
    made = manifest(
        name=folder.name,
        vocab_size=VOCABULARY,
        token_bytes=[0] + [1] * (VOCABULARY - 1),
        splits=written,
        dropped=DroppedDocuments(),
    )
    replace(made, **stated).write(Storage(folder))
    return folder


def _write_domain(folder: Path, ids: NDArray[np.int64], chunk_tokens: int) -> DomainCounts:
    folder.mkdir(parents=True)
    records = []
    for number, begin in enumerate(range(0, len(ids), chunk_tokens)):
        part = ids[begin : begin + chunk_tokens].astype(token_dtype(VOCABULARY))
        data = np.array([1, 12, 12 + part.nbytes], dtype=np.uint32).tobytes() + part.tobytes()
        file = f"chunk-0-{number}.bin"
        (folder / file).write_bytes(data)
        records.append(ChunkRecord(file, len(data), hashlib.sha256(data).hexdigest(), part.size))
    size = int((ids != EOS).sum())
    return DomainCounts(folder.name, int((ids == EOS).sum()), len(ids), size, size, chunks=records)
