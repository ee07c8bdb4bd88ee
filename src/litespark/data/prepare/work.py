"""What a preparation keeps beside the chunks while it is under way, so that it can be interrupted anywhere.

`.work/` in the prepared folder holds a file for each finished step of each unit. Each appears at once, and last of what
its step writes; so what is there is done, and what is missing is done again. All of it goes when the manifest is there.
"""

from __future__ import annotations

import io
import shutil
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
UNITS = "units"
FINGERPRINTS = "fingerprints"
DUPLICATES = "duplicates"
STAGES = (FINGERPRINTS, DUPLICATES, UNITS)
_SUFFIX = {UNITS: ".json", FINGERPRINTS: ".npz", DUPLICATES: ".npz"}
_FREQUENCIES = "frequencies"

Arrays = dict[str, NDArray[Any]]


@dataclass
class DomainResult:
    """What a unit wrote of one domain of one split."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    text_bytes: int = 0
    lengths: dict[int, int] = field(default_factory=dict)
    """By k: documents of 2^k to 2^(k+1)-1 tokens."""
    chunks: list[WrittenChunk] = field(default_factory=list)


@dataclass
class UnitResult:
    """What a unit wrote and left out."""

    tokenizer: str
    """Hash of the one that encoded."""
    domains: dict[str, dict[str, DomainResult]]
    """By split and domain."""
    dropped: DroppedDocuments
    seen: int
    """Documents met, those left out included."""
    bad: int
    """Of these the ones that could not be read."""
    hashes: list[str | None]
    """SHA-256 of each source file as it was read, where it is known."""
    frequencies: Annotated[Any, Field(exclude=True)] = field(default_factory=dict)
    """By split: how often each id was written, (vocab_size,) int64."""


_RESULT = TypeAdapter(UnitResult)


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
        suffix = _SUFFIX[stage]
        return {int(name.removesuffix(suffix)) for name in names if name.removesuffix(suffix).isdigit()}

    def write_arrays(self, stage: str, unit: int, arrays: Arrays) -> None:
        """Mark a unit as past a stage whose result is arrays."""
        self.prepared.write(f"{WORK}/{stage}/{unit}{_SUFFIX[stage]}", _packed(arrays))

    def arrays(self, stage: str, unit: int) -> Arrays:
        """What `write_arrays` wrote."""
        return _unpacked(self.prepared.read(f"{WORK}/{stage}/{unit}{_SUFFIX[stage]}"))

    def arrays_file(self, stage: str, unit: int, scratch: Path) -> Path:
        """Path of a file with what `write_arrays` wrote; `scratch` is where one that is remote is copied."""
        name = f"{WORK}/{stage}/{unit}{_SUFFIX[stage]}"
        if not self.prepared.remote:
            return self.prepared.local / name
        target = scratch / f"{stage}-{unit}{_SUFFIX[stage]}"
        self.prepared.fetch(name, target)
        return target

    def write_result(self, unit: int, result: UnitResult) -> None:
        """Mark a unit as prepared."""
        # few ids are frequent: narrow numbers compress well
        counts = {split: found.astype(np.uint32) for split, found in result.frequencies.items()}
        self.prepared.write(f"{WORK}/{_FREQUENCIES}/{unit}.npz", _packed(counts))
        self.prepared.write(f"{WORK}/{UNITS}/{unit}{_SUFFIX[UNITS]}", _RESULT.dump_json(result))

    def result(self, unit: int) -> UnitResult:
        """What `write_result` wrote."""
        result = _RESULT.validate_json(self.prepared.read(f"{WORK}/{UNITS}/{unit}{_SUFFIX[UNITS]}"))
        counts = _unpacked(self.prepared.read(f"{WORK}/{_FREQUENCIES}/{unit}.npz"))
        result.frequencies = {split: found.astype(np.int64) for split, found in counts.items()}
        return result

    def remove(self) -> None:
        """Delete it all; only once the manifest is there."""
        if self.prepared.remote:
            for file in self.prepared.files(WORK):
                self.prepared.remove(file.name)
        elif (folder := self.prepared.local / WORK).is_dir():
            shutil.rmtree(folder)


def _packed(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _unpacked(content: bytes) -> Arrays:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)
