"""What a remote data set needs on this machine besides chunks: its manifest and its tokenizer."""

from __future__ import annotations

from pathlib import Path

from litespark.data import manifest as manifests
from litespark.data import tokenizer_files as tokenizers
from litespark.data.storage import Storage
from litespark.data.stream.cache import ChunkCache
from litespark.data.tokenizer import Tokenizer


def local_copy(address: str, cache: ChunkCache) -> Path:
    """A folder `CACHE/data_sets/NAME-DIGEST/` with the manifest and tokenizer of a prepared folder, as they are now.

    Together with `TokenChunks(f"{address}/{split}/{folder}", ..., cache=cache)` that is all of it:

        cache = ChunkCache.of(reading, address)
        folder = local_copy(address, cache)
        manifest = Manifest.read(folder)

    A manifest that changed at its source gets another folder. Processes may call this at once.

    Args:
        address: of a folder that `prepare` wrote.
        cache: in whose folder the copy lies.

    Raises:
        ValueError: no manifest there, a file cannot be fetched or written, or the tokenizer is not the one that the
            manifest was written with.
    """
    manifest = manifests.Manifest.read(address)
    folder = cache.folder / "data_sets" / f"{address.rstrip('/').rsplit('/', 1)[-1]}-{manifest.hash[:12]}"
    # the manifest comes last: with it the copy is whole
    if not (folder / manifests.FILE).is_file():
        with cache.mendable_faults():
            folder.mkdir(parents=True, exist_ok=True)
            for file in (tokenizers.FILE, tokenizers.CONFIG_FILE):
                Storage(address).fetch(file, folder / file)
            found = Tokenizer.load(folder).hash
            if found != manifest.tokenizer_hash:
                raise ValueError(
                    f"{Storage(address).where(tokenizers.FILE)} has the hash {found}; the manifest says "
                    f"{manifest.tokenizer_hash}. It is another tokenizer, or damaged: copy it again, or prepare the "
                    "data again."
                )
            Storage(address).fetch(manifests.FILE, folder / manifests.FILE)
    return folder
