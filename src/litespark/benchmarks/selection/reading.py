"""What a preparation and a finished run tell: their ledger, and their validations."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from litespark.benchmarks.training_runs.finished import joules_of, read_finished
from litespark.data.manifest import Manifest
from litespark.metrics.records.selection import SelectionLeftOut, SelectionRun

_SELECTION = "selection/"


def left_out(manifest: Manifest) -> list[SelectionLeftOut]:
    """What selection left out of the training documents, by rule and kind."""
    return [
        SelectionLeftOut(row.rule.removeprefix(_SELECTION), row.domain, row.documents, row.bytes, row.tokens)
        for row in manifest.ledger.rows
        if row.split == "train" and row.rule.startswith(_SELECTION)
    ]


def validation_hash(manifest: Manifest) -> str:
    """Of all tokens that are validated on, and what ids mean: equal for equal text under one tokenizer."""
    domains = manifest.splits["validation"].domains
    chunks = [[name, [chunk.sha256 for chunk in domains[name].chunks]] for name in sorted(domains)]
    return hashlib.sha256(json.dumps([manifest.tokenizer_hash, chunks]).encode()).hexdigest()


def read_run(folder: Path, *, seed: int, position: int, manifest_hash: str) -> SelectionRun:
    """The run in a folder.

    Args:
        folder: of the run, which has finished.
        seed, position: which run of the benchmark it is.
        manifest_hash: of the data that it was to read.

    Raises:
        RecordError: the run is not finished, was trained on other data or with another seed, or its files contradict
            each other.
    """
    record, points = read_finished(folder, seed=seed, manifest_hash=manifest_hash)
    last = points[-1]
    joules, method, reason = joules_of(record, last)
    return SelectionRun(
        seed=seed,
        position=position,
        tokens=record.throughput.tokens,
        train_seconds=last.seconds,
        bits_per_byte=last.bits_per_byte,
        joules=joules,
        joules_method=method,
        joules_reason=reason,
        processes=len(record.segments),
        curve=points,
    )
