"""A miniature of SlimPajama-627B: the same folders, names, records and domains, with a few hundred short texts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import zstandard

SHARES = {
    "RedPajamaCommonCrawl": 52.2,
    "RedPajamaC4": 26.7,
    "RedPajamaGithub": 5.2,
    "RedPajamaArXiv": 4.6,
    "RedPajamaBook": 4.2,
    "RedPajamaWikipedia": 3.8,
    "RedPajamaStackExchange": 3.3,
}
"""Percent of the tokens of each domain (the data set's own description)."""
DOMAINS = tuple(sorted(SHARES))
_SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe qui ra so tu ve wo xi zu".split()


def write_slimpajama(folder: Path, *, chunks: int = 2, shards: int = 3, documents: int = 40, seed: int = 0) -> Path:
    """Write train/, validation/ and test/.

    Args:
        folder: is made.
        chunks: folders `chunkN` of each split.
        shards: files of each chunk; the two held-out splits have one.
        documents: of each shard. Every split has each domain at least once.
        seed: of the texts.
    """
    draw = random.Random(seed)
    for split, of_split in (("train", shards), ("validation", 1), ("test", 1)):
        kind = "train" if split == "train" else "holdout"
        for chunk in range(1, chunks + 1):
            (folder / split / f"chunk{chunk}").mkdir(parents=True)
            for shard in range(of_split):
                path = folder / split / f"chunk{chunk}" / f"example_{kind}_{shard}.jsonl.zst"
                path.write_bytes(zstandard.compress("".join(_lines(draw, documents, split)).encode()))
    return folder


def _lines(draw: random.Random, count: int, split: str) -> list[str]:
    names = [*DOMAINS, *draw.choices(list(SHARES), list(SHARES.values()), k=max(count - len(DOMAINS), 0))]
    draw.shuffle(names)
    lines = []
    for name in names[:count]:
        # words of its own for each domain, so that a model finds one harder than another
        words = ["".join(draw.choices(_SYLLABLES[DOMAINS.index(name) :], k=draw.randint(1, 3))) for _ in range(60)]
        text = f"{name} in {split}\n" + " ".join(words) + ".\n"
        lines.append(json.dumps({"text": text, "meta": {"redpajama_set_name": name}}) + "\n")
    return lines
