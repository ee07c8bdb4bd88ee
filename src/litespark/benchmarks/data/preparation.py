"""What one process measures of preparation: the product's, and the bare tokenizer on the same text."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from litespark.data.config import PrepareConfig
from litespark.data.manifest import Manifest
from litespark.data.prepare.prepare import prepare
from litespark.data.select.config import SelectionConfig

_BATCH_CHARACTERS = 1 << 20


def use_cores(count: int) -> None:
    """Keep this process and what it starts to the first `count` of its cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def config_of(values: dict[str, Any]) -> PrepareConfig:
    """The config that `dataclasses.asdict` made plain."""
    return PrepareConfig(**{**values, "selection": SelectionConfig(**values["selection"])})


def prepare_corpus(request: dict[str, Any]) -> dict[str, Any]:
    """Prepare, and answer with seconds, tokens and the peak of memory.

    Args:
        request: `config`, whose root must not hold the folder yet; `keep`: leave the prepared folder; `cores`.
    """
    use_cores(request["cores"])
    began, used = time.perf_counter(), _processor_seconds()
    folder = prepare(config_of(request["config"]), progress=False)
    seconds, used = time.perf_counter() - began, _processor_seconds() - used
    assert isinstance(folder, Path), "the root is local, and there is one node"
    splits = Manifest.read(folder).splits.values()
    if not request["keep"]:
        shutil.rmtree(folder)
    return {
        "seconds": seconds,
        "cpu_seconds": used,
        "tokens": sum(split.tokens for split in splits),
        "peak_bytes": _peak_bytes(),
        "folder": str(folder),
    }


def encode(request: dict[str, Any]) -> dict[str, Any]:
    """The bare tokenizer over the texts of a corpus that are in memory already; their ids are not even looked at.

    Args:
        request: `tokenizer`: a tokenizer.json; `source`: folder of .jsonl.zst shards; `cores`.
    """
    import tokenizers

    use_cores(request["cores"])
    encoder = tokenizers.Tokenizer.from_file(request["tokenizer"])
    encoder.encode_special_tokens = True  # as in preparation: special strings inside a text are text
    batches = list(_batches(Path(request["source"])))
    tokens = 0
    began, used = time.perf_counter(), _processor_seconds()
    for batch in batches:
        # the faster of the two batch calls: it leaves out the places in the text
        tokens += sum(map(len, encoder.encode_batch_fast(batch, add_special_tokens=False)))
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": _processor_seconds() - used,
        "tokens": tokens,
        "peak_bytes": _peak_bytes(),
    }


def _batches(folder: Path) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for file in sorted(folder.rglob("*.jsonl.zst")):
        content = zstandard.ZstdDecompressor().stream_reader(file.read_bytes()).read()
        for line in content.split(b"\n")[:-1]:
            batch.append(json.loads(line)["text"])
            characters += len(batch[-1])
            if characters >= _BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


def _processor_seconds() -> float:
    """Of this process and of all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak_bytes() -> int:
    """The largest resident memory that this process, or one that it started and waited for, ever had."""
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    status = Path("/proc/self/status")
    if not status.is_file():
        return max(children, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    # not ru_maxrss: Linux counts in it what the process that started this one held at that moment
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return max(children, int(lines["VmHWM"].split()[0]) * 1024)
