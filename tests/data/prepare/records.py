"""Small corpora of JSON lines, for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path

KINDS = ("prose", "code", "news & views")


def write_records(folder: Path, texts: list[str], *, files: int) -> Path:
    """`NN.jsonl` with a share of the texts each, whose `meta.kind` takes turns."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(texts) // files)
    for number in range(files):
        lines = [
            json.dumps({"text": text, "meta": {"kind": KINDS[place % len(KINDS)]}})
            for place, text in enumerate(texts[number * size : (number + 1) * size])
        ]
        (folder / f"{number:02}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
