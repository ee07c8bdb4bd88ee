"""What is in a prepared folder, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from litespark.data.manifest import Manifest
from litespark.data.stream.token_chunks import TokenChunks
from litespark.data.tokenizer import Tokenizer


def tokens(folder: Path, split: str, domain: str = "text") -> list[int]:
    """The ids of a domain."""
    manifest = Manifest.read(folder)
    counts = manifest.splits[split].domains[domain]
    chunks = TokenChunks(folder / split / counts.folder, counts.chunks, vocab_size=manifest.vocab_size)
    return chunks.read(0, len(chunks)).tolist()


def texts(folder: Path, split: str, domain: str = "text") -> list[str]:
    """The documents of a domain, decoded from its chunks."""
    tokenizer = Tokenizer.load(folder)
    ids = np.array(tokens(folder, split, domain))
    *ended, rest = np.split(ids, np.flatnonzero(ids == tokenizer.eos_id) + 1)
    assert rest.size == 0, "the last document has no EOS"
    return [tokenizer.decode(document[:-1].tolist()) for document in ended]


def content(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
