"""Whether a prepared folder is what its manifest says: every chunk by size and hash, the indexes, the tokenizer."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from litespark.data import manifest as manifests
from litespark.data import tokenizer_files as tokenizers
from litespark.data.chunks import ChunkRecord, chunk_fault
from litespark.data.manifest import Manifest
from litespark.data.prepare.chunk_writer import INDEX
from litespark.data.prepare.same_text import NOTE, START
from litespark.data.storage import Storage
from litespark.data.tokenizer import Tokenizer

_NAMED = 10


@dataclass(frozen=True)
class Checked:
    """A prepared folder that is sound."""

    manifest: Manifest
    chunk_files: int
    extra_files: list[str]
    """That lie in it and do not belong to it."""


def check_prepared(address: str | Path) -> Checked:
    """Read every chunk of a prepared folder, here or behind an address, and compare it with the manifest.

    Raises:
        ValueError: a chunk is missing or has another size or other bytes, an index lists other chunks, or the tokenizer
            is another; names each of them.
    """
    manifest = Manifest.read(address)
    storage = Storage(address)
    sizes = {file.name: file.size for file in storage.files()}
    expected = {manifests.FILE, tokenizers.FILE, tokenizers.CONFIG_FILE}
    wrong: list[str] = []
    chunk_files = 0
    for split, counts in manifest.splits.items():
        for domain in counts.domains.values():
            folder = f"{split}/{domain.folder}"
            expected |= {f"{folder}/{INDEX}", *(f"{folder}/{chunk.file}" for chunk in domain.chunks)}
            chunk_files += len(domain.chunks)
            place, there = storage.below(folder), _below(folder, sizes)
            faults = (chunk_fault(place, chunk, there, hashed=True) for chunk in domain.chunks)
            wrong += [fault for fault in faults if fault is not None]
            wrong += _faults_of_index(storage, f"{folder}/{INDEX}", domain.chunks, sizes)
    wrong += _faults_of_tokenizer(storage, manifest, sizes)
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise ValueError(
            f"{address} does not match its manifest: {'; '.join(wrong[:_NAMED])}{more}. Copy these files again, or "
            "delete the folder and prepare the data again."
        )
    expected |= {name for name in sizes if fnmatch(name, NOTE) or fnmatch(name, START)}
    return Checked(manifest, chunk_files, sorted(sizes.keys() - expected))


def _below(folder: str, sizes: dict[str, int]) -> dict[str, int]:
    prefix = f"{folder}/"
    return {name.removeprefix(prefix): size for name, size in sizes.items() if name.startswith(prefix)}


def _faults_of_index(storage: Storage, name: str, chunks: list[ChunkRecord], sizes: dict[str, int]) -> list[str]:
    if name not in sizes:
        return [f"{storage.where(name)} is missing"]
    try:
        listed = [
            (entry["filename"], entry["chunk_bytes"], entry["dim"])
            for entry in json.loads(storage.read(name))["chunks"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"{storage.where(name)} is not an index of LitData ({error})"]
    expected = [(chunk.file, chunk.size, chunk.tokens) for chunk in chunks]
    return [] if listed == expected else [f"{storage.where(name)} lists other chunks than the manifest"]


def _faults_of_tokenizer(storage: Storage, manifest: Manifest, sizes: dict[str, int]) -> list[str]:
    if tokenizers.FILE not in sizes:
        return [f"{storage.where(tokenizers.FILE)} is missing"]
    with tempfile.TemporaryDirectory(prefix="litespark-check-") as folder:
        for name in sizes.keys() & {tokenizers.FILE, tokenizers.CONFIG_FILE}:
            storage.fetch(name, Path(folder) / name)
        try:
            found = Tokenizer.load(Path(folder)).hash
        except ValueError as error:
            return [f"{storage.where(tokenizers.FILE)} cannot be read ({error})"]
    if found == manifest.tokenizer_hash:
        return []
    return [f"{storage.where(tokenizers.FILE)} is not the tokenizer that the manifest names, so ids would be read as "
            "other text"]  # fmt: skip
