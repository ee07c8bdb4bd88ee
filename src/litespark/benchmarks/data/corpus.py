"""The text of `litespark bench data`: installed Python sources, which every machine has, in shards of .jsonl.zst."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import zstandard

from litespark.data.text.installed_packages import INSTALLED_PACKAGES, installed_packages
from litespark.metrics.records.data import CorpusRecord

# about the length of SlimPajama's, a thousand tokens
_DOCUMENT_CHARACTERS = 4000
_VALIDATION_DOCUMENTS = 96


def write_corpus(folder: Path, *, text_bytes: int, shards: int, texts: Iterator[str] | None = None) -> CorpusRecord:
    """Write a validation split, and a training split of about so many bytes of UTF-8, of `texts` or `documents()`."""
    texts = documents() if texts is None else texts
    digest, count, written, compressed = hashlib.sha256(), 0, 0, 0
    for number in range(-1, shards):
        split = "validation" if number < 0 else "train"
        part = list(islice(texts, _VALIDATION_DOCUMENTS) if number < 0 else _until(texts, text_bytes // shards))
        size = sum(len(text.encode()) for text in part)
        if number >= 0 and size < text_bytes // shards:
            raise ValueError(
                f"--megabytes: got {text_bytes / 1e6:g}, but the installed packages hold less Python text; give a "
                "smaller number"
            )
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in part)
        shard = folder / split / f"{max(number, 0)}.jsonl.zst"
        shard.parent.mkdir(parents=True, exist_ok=True)
        compressed += shard.write_bytes(zstandard.ZstdCompressor().compress(lines.encode()))
        digest.update("".join(f"{text}\0" for text in part).encode())
        count, written = count + len(part), written + size
    return CorpusRecord(INSTALLED_PACKAGES, count, written, shards, compressed, digest.hexdigest())


def documents() -> Iterator[str]:
    """The Python sources of the installed packages in the order of a hash of their names, cut at line breaks."""
    training, validation = installed_packages(0.5)
    for file in sorted(training + validation, key=lambda file: hashlib.sha256(file.name.encode()).digest()):
        try:
            text = Path(file.path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        # what preparation would leave out is not part of the comparison
        yield from (part for part in _parts(text) if part.strip() and "\0" not in part)


def _parts(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _DOCUMENT_CHARACTERS:
        end = text.rfind("\n", start + 1, start + _DOCUMENT_CHARACTERS) + 1 or start + _DOCUMENT_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]


def _until(texts: Iterator[str], most_bytes: int) -> Iterator[str]:
    size = 0
    while size < most_bytes and (text := next(texts, None)) is not None:
        yield text
        size += len(text.encode())
