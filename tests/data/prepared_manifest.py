"""Manifests of prepared folders, made without preparing: two splits, several domains and dropped documents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from litespark.data.chunks import ChunkRecord
from litespark.data.dropped import DroppedDocuments
from litespark.data.manifest import DomainCounts, Manifest, SplitCounts
from litespark.data.storage import Storage

SELECTION = {"quality": ["gopher_quality", "c4"], "languages": [], "exact_duplicates": True, "near_duplicates": False}


def domain(name: str, lengths: list[int], tokens: int, **changes: Any) -> DomainCounts:
    """Four bytes of text a token, in one chunk."""
    chunk = ChunkRecord(f"chunk-{name}-0.bin", 2 * tokens, "ab" * 32, tokens)
    counts = DomainCounts(name, sum(lengths), tokens, 4 * tokens, 4 * tokens, lengths, [chunk])
    return replace(counts, **changes)


def dropped() -> DroppedDocuments:
    """2 lines that are none, 30 documents of low quality in two domains for two reasons, 8 duplicates."""
    made = DroppedDocuments()
    broken = {"size": 17, "tokens": None, "text": '{"text": "cut o'}
    made.add("train", "unknown", "reading/malformed_json", file="train/a.jsonl", place=3, **broken)
    made.add("validation", "unknown", "reading/malformed_json", file="validation/a.jsonl", place=9, **broken)
    for place in range(10):
        text = f"buy ```now``` \x1b[31m {place}\nand again " + "very " * 40
        size = {"size": 400, "tokens": 90}
        made.add("train", "Common|Crawl", "selection/gopher_quality/symbols", **size, file="a", place=place, text=text)
    for place in range(20):
        rule = f"selection/gopher_quality/{'short' if place < 15 else 'symbols'}"
        made.add("train", "Wiki", rule, size=100, tokens=30, file="b", place=place, text="few words")
    for place in range(8):
        made.add("train", "Wiki", "selection/exact_duplicate", size=50, tokens=12, file="b", place=place, text="twice")
    return made


def manifest(**changes: Any) -> Manifest:
    """Train: 70 documents of Common|Crawl (7,000 tokens) and 30 of Wiki (3,000); validation: 5 of Wiki."""
    train = {
        "Common|Crawl": domain("Common_Crawl-1", [0, 0, 0, 0, 0, 20, 40, 10], 7000),
        "Wiki": domain("Wiki", [0, 0, 0, 0, 0, 10, 14, 0, 6], 3000),
    }
    made = Manifest(
        name="miniature",
        vocab_size=300,
        eos_id=0,
        bos_id=None,
        tokenizer_hash="cd" * 32,
        token_bytes=[1] * 300,
        splits={"validation": SplitCounts({"Wiki": domain("Wiki", [0, 5], 12)}), "train": SplitCounts(train)},
        unigram_entropy=5.5,
        settings={"source": "corpus", "selection": SELECTION},
        dropped=dropped(),
        code_version="1",
    )
    return replace(made, **changes)


def prepared(folder: Path, **changes: Any) -> Path:
    """A folder with the manifest alone."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest(**changes).write(Storage(folder))
    return folder
