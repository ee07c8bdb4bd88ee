"""Whether a prepared folder is what its manifest says: every chunk by size and hash, the tokenizer."""

import tempfile
from fnmatch import fnmatch
from pathlib import Path

from litespark.data import manifest as manifests
from litespark.data import tokenizer_files as tokenizers
from litespark.data.chunks import chunk_fault
from litespark.data.manifest import Manifest
from litespark.data.prepare.chunk_writer import INDEX
from litespark.data.prepare.same_text import NOTE, START
from litespark.data.storage import Storage
from litespark.data.tokenizer import Tokenizer

_NAMED = 10


def check_prepared(address: str | Path) -> tuple[Manifest, list[str]]:
    """Read every chunk of a prepared folder, here or behind an address, and compare it with the manifest.

    Returns the manifest, and the files that lie in the folder and do not belong to it. ValueError names each chunk that
    is missing or has other bytes, and another tokenizer.
    """
    manifest = Manifest.read(address)
    storage = Storage(address)
    sizes = {file.name: file.size for file in storage.files()}
    expected = {manifests.FILE, _tokenizer_of(sizes), tokenizers.CONFIG_FILE}
    wrong: list[str | None] = []
    for split, counts in manifest.splits.items():
        for domain in counts.domains.values():
            folder = f"{split}/{domain.folder}/"
            expected |= {f"{folder}{INDEX}", *(f"{folder}{chunk.file}" for chunk in domain.chunks)}
            there = {name.removeprefix(folder): size for name, size in sizes.items() if name.startswith(folder)}
            below = storage.below(folder.rstrip("/"))
            wrong += [chunk_fault(below, chunk, there, hashed=True) for chunk in domain.chunks]
    wrong.append(_fault_of_tokenizer(storage, manifest, sizes))
    if faults := [fault for fault in wrong if fault is not None]:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise ValueError(
            f"{address} does not match its manifest: {'; '.join(faults[:_NAMED])}{more}. Copy these files again, or "
            "delete the folder and prepare the data again."
        )
    expected |= {name for name in sizes if fnmatch(name, NOTE) or fnmatch(name, START)}
    return manifest, sorted(sizes.keys() - expected)


def _fault_of_tokenizer(storage: Storage, manifest: Manifest, sizes: dict[str, int]) -> str | None:
    file = _tokenizer_of(sizes)
    where = storage.where(file)
    if file not in sizes:
        return f"{where} is missing"
    with tempfile.TemporaryDirectory(prefix="litespark-check-") as folder:
        for name in sizes.keys() & {file, tokenizers.CONFIG_FILE}:
            storage.fetch(name, Path(folder) / name)
        try:
            digest = Tokenizer.load(Path(folder)).hash
        except ValueError as error:
            return f"{where} cannot be read ({error})"
    if digest == manifest.tokenizer_hash:
        return None
    return f"{where} is not the tokenizer that the manifest names, so ids would be read as other text"


def _tokenizer_of(sizes: dict[str, int]) -> str:
    return tokenizers.MODEL_FILE if tokenizers.MODEL_FILE in sizes else tokenizers.FILE
