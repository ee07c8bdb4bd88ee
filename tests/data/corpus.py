"""A small corpus and its settings, for the tests of this folder."""

from __future__ import annotations

import random
from pathlib import Path

from litespark.data.config import PrepareConfig

WORDS = "the row of tokens ends where another begins and nothing is lost between them ünïcode 漢字 🙂".split()


def documents(count: int, *, seed: int = 0, words: int = 60) -> list[str]:
    """Different texts of random words, some with line breaks."""
    draw = random.Random(seed)
    return [
        f"document {number}\n" + " ".join(draw.choices(WORDS, k=draw.randint(1, words))) + "\n"
        for number in range(count)
    ]


def write_texts(folder: Path, texts: list[str]) -> Path:
    """One .txt file a text."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:04}.txt").write_text(text, encoding="utf-8")
    return folder


def config(source: Path | str, root: Path | str, **changes: object) -> PrepareConfig:
    """Settings with a tiny vocabulary, tiny chunks and one process."""
    sizes = {"vocab_size": 300, "validation_fraction": 0.2, "chunk_tokens": 100, "seq_len": 16, "micro_batch_size": 2}
    return PrepareConfig(source=str(source), root=str(root), **{"processes": 1, **sizes, **changes})
