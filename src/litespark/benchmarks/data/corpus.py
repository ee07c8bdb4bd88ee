"""The text of `litespark bench data`: installed Python sources, written as SlimPajama is laid out.

Every machine has it, and its documents are cut to about the length of SlimPajama's (a thousand tokens). Two folders
are made: `once`, and `four_times` with all shards of the first and three times as many of other text, so that memory
can be compared between corpora of which one is four times the other and neither holds a shard twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import zstandard

from litespark.data.text.installed_packages import INSTALLED_PACKAGES, installed_packages
from litespark.metrics.records.data import CorpusRecord

FACTOR = 4
ONCE, FOUR_TIMES = "once", "four_times"
# litgpt leaves the seventh, RedPajamaGithub, out
DOMAINS = (
    "RedPajamaArXiv",
    "RedPajamaBook",
    "RedPajamaC4",
    "RedPajamaCommonCrawl",
    "RedPajamaStackExchange",
    "RedPajamaWikipedia",
)
_DOCUMENT_CHARACTERS = 4000
# each domain needs a row of them
_VALIDATION_DOCUMENTS = 96


@dataclass
class _Written:
    """What stands in shards so far."""

    documents: int = 0
    text_bytes: int = 0
    shard_bytes: int = 0


def write_corpus(folder: Path, *, text_bytes: int, shards: int, texts: Iterator[str] | None = None) -> CorpusRecord:
    """Write `once` and `four_times` below `folder`; what is returned describes `once`.

    Args:
        folder: for both.
        text_bytes: of the training text of `once`, in UTF-8, about.
        shards: that it is written in.
        texts: documents; None: those of `documents()`.

    Raises:
        ValueError: there is less text than four times `text_bytes`.
    """
    texts = documents() if texts is None else texts
    digest = hashlib.sha256()
    validation = list(islice(texts, _VALIDATION_DOCUMENTS))
    once = _Written()
    held_out = folder / FOUR_TIMES / "validation" / "chunk1" / "example_holdout_0.jsonl.zst"
    _write_shard(held_out, iter(validation), None, once, digest)
    _link(held_out, folder / ONCE)
    held_out_bytes = once.text_bytes
    for number in range(FACTOR * shards):
        shard = folder / FOUR_TIMES / "train" / f"chunk{1 + number % 10}" / f"example_train_{number}.jsonl.zst"
        found = once if number < shards else _Written()
        before = found.text_bytes
        _write_shard(shard, texts, text_bytes // shards, found, digest if number < shards else None)
        if found.text_bytes - before < text_bytes // shards:
            raise ValueError(
                f"--megabytes: got {text_bytes / 1e6:g}, but the installed packages hold less than {FACTOR} times as "
                "much Python text; give a smaller number"
            )
        if number < shards:
            _link(shard, folder / ONCE)
    return CorpusRecord(
        INSTALLED_PACKAGES,
        once.documents,
        once.text_bytes,
        once.text_bytes - held_out_bytes,
        shards,
        once.shard_bytes,
        digest.hexdigest(),
    )


def documents() -> Iterator[str]:
    """The Python sources of the installed packages in the order of a hash of their names, cut at line breaks."""
    split = installed_packages(0.5)
    files = [*split.training.files, *split.validation.files]
    for file in sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).digest()):
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


def _write_shard(
    path: Path, texts: Iterator[str], most_bytes: int | None, found: _Written, digest: hashlib._Hash | None
) -> None:
    """Write records until they hold `most_bytes` of text (None: all), counting into `found` and `digest`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written, lines = 0, []
    for number, text in enumerate(texts):
        encoded = text.encode()
        domain = DOMAINS[number % len(DOMAINS)]
        lines.append(json.dumps({"text": text, "meta": {"redpajama_set_name": domain}}, ensure_ascii=False) + "\n")
        written += len(encoded)
        found.documents += 1
        if digest is not None:
            digest.update(encoded + b"\0")
        if most_bytes is not None and written >= most_bytes:
            break
    data = zstandard.ZstdCompressor().compress("".join(lines).encode())
    path.write_bytes(data)
    found.text_bytes += written
    found.shard_bytes += len(data)


def _link(shard: Path, folder: Path) -> None:
    """The same shard below another corpus."""
    target = folder / shard.relative_to(shard.parents[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(shard, target)
