"""One unit of a preparation: read its files, leave out what selection refuses, encode the rest, write its chunks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from litespark.data.config import PrepareConfig
from litespark.data.dropped import DroppedDocuments
from litespark.data.prepare.documents import documents_of
from litespark.data.prepare.encoding import DocumentEncoder, Entry
from litespark.data.prepare.locks import mendable_faults_of_disk
from litespark.data.prepare.plan import Unit
from litespark.data.prepare.same_text import hash_as_read
from litespark.data.prepare.split_writer import SplitWriter
from litespark.data.prepare.work import DUPLICATES, FINGERPRINTS, UNITS, UnitResult, Work
from litespark.data.select.duplicates import DUPLICATE_RULES, Fingerprinter
from litespark.data.select.select import Selector
from litespark.data.storage import Storage
from litespark.data.text.reader import DocumentReader
from litespark.data.text.splits import TRAIN, SplitRule
from litespark.data.tokenizer import Tokenizer

METERS = ("documents", "tokens", "text_bytes", "source_bytes")
DOCUMENTS, TOKENS, TEXT_BYTES, SOURCE_BYTES = range(4)
_REFUSED = "refused"
_REFUSED_BY = "refused_by"


@dataclass(frozen=True)
class Preparation:
    """All that a process needs to know to prepare units."""

    config: PrepareConfig
    prepared: str
    """Path or address of the prepared folder."""
    units: tuple[Unit, ...]
    rule: SplitRule | None
    """Deals documents out to the splits; None: units know theirs."""
    scratch: str
    """Folder on this machine for what is deleted at the end; holds the tokenizer."""

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer is, on this machine."""
        return Path(self.scratch) / "tokenizer"


class UnitWorker:
    """Prepares units, one after the other; each process has its own.

    Args:
        preparation: what to do.
        meters: (units, len(METERS)) int64, in memory that a display reads: what each unit has done so far.
        tokenizer: the one in `preparation.tokenizer_folder`; None: it is loaded when it is needed.
    """

    def __init__(self, preparation: Preparation, meters: NDArray[np.int64], tokenizer: Tokenizer | None = None) -> None:
        self.preparation = preparation
        self.config = preparation.config
        self.prepared = Storage(preparation.prepared)
        self.work = Work(self.prepared)
        self.meters = meters
        self._loaded = tokenizer

    def run(self, stage: str, number: int) -> None:
        """Take a unit through a stage, to its marker.

        Raises:
            ValueError: what a user can mend: a file that cannot be read, a full disk, too many bad documents.
        """
        unit = self.preparation.units[number]
        self.meters[number] = 0
        scratch = Path(self.preparation.scratch) / f"unit-{number}"
        with mendable_faults_of_disk(self.preparation.prepared):
            scratch.mkdir(parents=True, exist_ok=True)
            try:
                if stage == FINGERPRINTS:
                    self._fingerprint(unit, scratch)
                else:
                    assert stage == UNITS, stage
                    self._write(unit, scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        self.meters[number, SOURCE_BYTES] = unit.text_bytes

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._loaded or Tokenizer.load(self.preparation.tokenizer_folder)

    @cached_property
    def _token_bytes(self) -> NDArray[np.int64]:
        return np.array(self._tokenizer.token_bytes(), dtype=np.int64)

    @cached_property
    def _selector(self) -> Selector:
        return Selector(self.config.selection)

    def _fingerprint(self, unit: Unit, scratch: Path) -> None:
        """What `duplicates` compares, of the training documents that no other rule refuses; and who refused others."""
        fingerprints = Fingerprinter(self.config.selection)
        refused: list[tuple[int, str]] = []
        reader = DocumentReader.of(self.config, scratch=scratch)
        entries = self._entries(unit, reader) if unit.split in (TRAIN, None) else ()
        for ordinal, entry in entries:
            if entry.split != TRAIN:
                continue
            if (rule := self._selector.refusal(entry.document)) is not None:
                refused.append((ordinal, rule))
            else:
                fingerprints.add(ordinal, entry.document)
        own = {
            _REFUSED: np.array([ordinal for ordinal, _ in refused], dtype=np.int64),
            _REFUSED_BY: np.array([rule for _, rule in refused], dtype=np.str_),
        }
        self.work.write_arrays(FINGERPRINTS, unit.number, {**fingerprints.arrays(), **own})

    def _write(self, unit: Unit, scratch: Path) -> None:
        dropped = DroppedDocuments()
        reader = DocumentReader.of(self.config, split=unit.split or TRAIN, dropped=dropped, scratch=scratch)
        writer = SplitWriter(
            self.prepared, unit.number, self.config, token_bytes=self._token_bytes, eos_id=self._tokenizer.eos_id
        )
        encoder = DocumentEncoder(self._tokenizer, lambda batch: self._take(batch, writer, dropped, unit.number))
        for entry in self._judged(unit, reader):
            if entry.refused_by is not None and not self.config.selection.count_dropped_tokens:
                _enter(dropped, entry, None)
            else:
                encoder.add(entry)
        encoder.close()
        result = UnitResult(
            tokenizer=self._tokenizer.hash,
            domains=writer.close(),
            dropped=dropped,
            seen=reader.seen,
            bad=reader.bad,
            frequencies=writer.frequencies,
            hashes=[hash_as_read(file) for file in unit.files],
        )
        self.work.write_result(unit.number, result)

    def _take(
        self,
        batch: list[tuple[Entry, NDArray[np.generic]]],
        writer: SplitWriter,
        dropped: DroppedDocuments,
        number: int,
    ) -> None:
        """Write what stays of an encoded batch, and enter what goes."""
        for entry, ids in batch:
            if entry.refused_by is not None:
                _enter(dropped, entry, ids.size)
        kept = [(entry, ids) for entry, ids in batch if entry.refused_by is None]
        self.meters[number, TOKENS] += writer.add(kept)

    def _judged(self, unit: Unit, reader: DocumentReader) -> Iterator[Entry]:
        """Every document of the unit, with the rule that refuses it."""
        compared = self.config.selection.compares_documents
        refused = self._refused(unit.number) if compared else {}
        for ordinal, entry in self._entries(unit, reader):
            rule = None
            if compared:
                rule = refused.get(ordinal)
            elif entry.split == TRAIN and self.config.selection.any:
                rule = self._selector.refusal(entry.document)
            yield entry if rule is None else replace(entry, refused_by=f"selection/{rule}")

    def _refused(self, number: int) -> dict[int, str]:
        """Rule by ordinal, of the documents of a unit that the stages before have refused."""
        alone = self.work.arrays(FINGERPRINTS, number)
        repeated = self.work.arrays(DUPLICATES, number)
        rules = dict(zip(alone[_REFUSED].tolist(), alone[_REFUSED_BY].tolist(), strict=True))
        names = [DUPLICATE_RULES[place] for place in repeated["rules"].tolist()]
        return rules | dict(zip(repeated["ordinals"].tolist(), names, strict=True))

    def _entries(self, unit: Unit, reader: DocumentReader) -> Iterator[tuple[int, Entry]]:
        """(number in the unit, document) of the unit; lines that are no documents go to the reader's dropped."""
        meter = self.meters[unit.number]
        expected = unit.text_bytes  # a sum over its files
        documents = documents_of(unit, reader, self.preparation.rule)
        for ordinal, (split, document) in enumerate(documents):
            size = len(document.text.encode())
            meter[DOCUMENTS] += 1
            meter[TEXT_BYTES] += size
            meter[SOURCE_BYTES] = min(meter[SOURCE_BYTES] + size, expected)
            yield ordinal, Entry(split, document, size)


def _enter(dropped: DroppedDocuments, entry: Entry, tokens: int | None) -> None:
    assert entry.refused_by is not None
    document = entry.document
    dropped.add(
        entry.split,
        document.domain,
        entry.refused_by,
        size=entry.size,
        tokens=tokens,
        file=document.file,
        place=document.place,
        text=document.text,
    )
