"""What a preparation keeps beside the chunks while it is under way, so that it can be interrupted anywhere.

`.work/STAGE/UNIT.npz` is the result of one step of one unit, written last: what is there is done, and what is missing
is done again. All of it goes when the manifest is there.
"""

from __future__ import annotations

import io
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from litespark.data.dropped import DroppedDocuments
from litespark.data.prepare.chunk_writer import WrittenChunk
from litespark.data.storage import Storage

WORK = ".work"
FINGERPRINTS, DUPLICATES, UNITS = "fingerprints", "duplicates", "units"
_SUFFIX = ".npz"
_RESULT = "result"

Arrays = dict[str, NDArray[Any]]


@dataclass
class DomainResult:
    """What a unit wrote of one domain of one split."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    text_bytes: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """By k: documents of 2^k to 2^(k+1)-1 tokens."""
    chunks: list[WrittenChunk] = field(default_factory=list)

    def add(self, later: DomainResult) -> None:
        self.documents += later.documents
        self.tokens += later.tokens
        self.bytes += later.bytes
        self.text_bytes += later.text_bytes
        self.lengths += later.lengths
        self.chunks += later.chunks


@dataclass
class UnitResult:
    """What a unit wrote and left out."""

    tokenizer: str
    domains: dict[str, dict[str, DomainResult]]
    dropped: DroppedDocuments
    hashes: list[str | None]
    frequencies: Annotated[Any, Field(exclude=True)] = field(default_factory=dict)
    """By split: how often each id was written, (vocab_size,) int64."""


_UNIT_RESULT = TypeAdapter(UnitResult)


class Work:
    """The folder `.work` of a prepared folder."""

    def __init__(self, prepared: Storage) -> None:
        self.prepared = prepared

    def done(self, stage: str) -> set[int]:
        """Numbers of the units that have passed a stage."""
        if self.prepared.remote:
            names = [Path(file.name).name for file in self.prepared.files(f"{WORK}/{stage}")]
        else:  # names alone: files come and go while other nodes write theirs
            folder = self.prepared.local / WORK / stage
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return {int(name.removesuffix(_SUFFIX)) for name in names if name.removesuffix(_SUFFIX).isdigit()}

    def write_arrays(self, stage: str, unit: int, arrays: Arrays) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        self.prepared.write(_name(stage, unit), buffer.getvalue())

    def arrays(self, stage: str, unit: int) -> Arrays:
        with np.load(io.BytesIO(self.prepared.read(_name(stage, unit))), allow_pickle=False) as arrays:
            return dict(arrays)

    def arrays_file(self, stage: str, unit: int, scratch: Path) -> Path:
        """Path of a file with what `write_arrays` wrote; `scratch` is where one that is remote is copied."""
        if not self.prepared.remote:
            return self.prepared.local / _name(stage, unit)
        target = scratch / f"{stage}-{unit}{_SUFFIX}"
        self.prepared.fetch(_name(stage, unit), target)
        return target

    def write_result(self, unit: int, result: UnitResult) -> None:
        # few ids are frequent: narrow numbers compress well
        counts = {split: frequencies.astype(np.uint32) for split, frequencies in result.frequencies.items()}
        described = np.frombuffer(_UNIT_RESULT.dump_json(result), dtype=np.uint8)
        self.write_arrays(UNITS, unit, {_RESULT: described, **counts})

    def result(self, unit: int) -> UnitResult:
        arrays = self.arrays(UNITS, unit)
        result = _UNIT_RESULT.validate_json(arrays.pop(_RESULT).tobytes())
        result.frequencies = {split: counts.astype(np.int64) for split, counts in arrays.items()}
        return result

    def remove(self) -> None:
        """Delete it all; only once the manifest is there."""
        if self.prepared.remote:
            for file in self.prepared.files(WORK):
                self.prepared.remove(file.name)
        elif (folder := self.prepared.local / WORK).is_dir():
            shutil.rmtree(folder)


def _name(stage: str, unit: int) -> str:
    return f"{WORK}/{stage}/{unit}{_SUFFIX}"
