"""One unit of a preparation: read its files, leave out what selection refuses, encode the rest, write its chunks."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from litespark.data.dropped import DroppedDocuments
from litespark.data.prepare.encoding import DocumentEncoder, Encoded, Entry
from litespark.data.prepare.plan import Plan, Unit
from litespark.data.prepare.same_text import hash_as_read
from litespark.data.prepare.split_writer import SplitWriter
from litespark.data.prepare.work import DUPLICATES, FINGERPRINTS, UnitResult, Work
from litespark.data.select.duplicates import DUPLICATE_RULES, Fingerprinter
from litespark.data.select.select import Selector
from litespark.data.text.document import Document
from litespark.data.text.reader import DocumentReader
from litespark.data.text.splits import TRAIN, SplitRule
from litespark.data.tokenizer import Tokenizer

METERS = ("documents", "tokens", "text_bytes", "source_bytes")
DOCUMENTS, TOKENS, TEXT_BYTES, SOURCE_BYTES = range(4)
TOKENIZER = "tokenizer"
"""Folder of the tokenizer, below the scratch folder."""
_REFUSED, _REFUSED_BY = "refused", "refused_by"


class UnitWorker:
    """Prepares units, one after the other; each process has its own.

    Args:
        rule: deals documents out to the splits; None: each unit has its own.
        scratch: folder on this machine for what is deleted at the end; holds the tokenizer.
        meters: (units, len(METERS)) int64, in memory that a display reads: what each unit has done so far.
    """

    def __init__(self, plan: Plan, rule: SplitRule | None, scratch: Path, meters: NDArray[np.int64]) -> None:
        self.plan = plan
        self.config = plan.config
        self.rule = rule
        self.scratch = scratch
        self.meters = meters
        self.work = Work(plan.storage)

    def run(self, stage: str, number: int) -> None:
        """Take a unit through a stage, to its marker."""
        unit = self.plan.units[number]
        self.meters[number] = 0
        scratch = self.scratch / f"unit-{number}"
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            if stage == FINGERPRINTS:
                self._fingerprint(unit, scratch)
            else:
                self._write(unit, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self.meters[number, SOURCE_BYTES] = unit.text_bytes

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self.plan.tokenizer or Tokenizer.load(self.scratch / TOKENIZER)

    @cached_property
    def _token_bytes(self) -> NDArray[np.int64]:
        return np.array(self._tokenizer.token_bytes(), dtype=np.int64)

    @cached_property
    def _selector(self) -> Selector:
        return Selector(self.config.selection)

    def _fingerprint(self, unit: Unit, scratch: Path) -> None:
        """What `duplicates` compares, of the training documents that no other rule refuses; and who refused others."""
        fingerprints = Fingerprinter(self.config.selection)
        refused: dict[int, str] = {}
        reader = DocumentReader(self.config, scratch=scratch)
        for ordinal, entry in self._entries(unit, reader) if unit.split in (TRAIN, None) else ():
            if entry.split != TRAIN:
                continue
            if (rule := self._selector.refusal(entry.document)) is not None:
                refused[ordinal] = rule
            else:
                fingerprints.add(ordinal, entry.document)
        own = {
            _REFUSED: np.array([*refused], dtype=np.int64),
            _REFUSED_BY: np.array([*refused.values()], dtype=np.str_),
        }
        self.work.write_arrays(FINGERPRINTS, unit.number, {**fingerprints.arrays(), **own})

    def _write(self, unit: Unit, scratch: Path) -> None:
        tokenizer, dropped = self._tokenizer, DroppedDocuments()
        reader = DocumentReader(self.config, split=unit.split or TRAIN, dropped=dropped, scratch=scratch)
        writer = SplitWriter(
            self.plan.storage, unit.number, self.config, token_bytes=self._token_bytes, eos_id=tokenizer.eos_id
        )

        def take(batch: list[Encoded]) -> None:
            for entry, ids in batch:
                if entry.refused_by is not None:
                    _enter(dropped, entry, ids.size)
            self.meters[unit.number, TOKENS] += writer.add([pair for pair in batch if pair[0].refused_by is None])

        encoder = DocumentEncoder(tokenizer, take)
        for entry in self._judged(unit, reader):
            if entry.refused_by is not None and not self.config.selection.count_dropped_tokens:
                _enter(dropped, entry, None)
            else:
                encoder.add(entry)
        encoder.close()
        hashes = [hash_as_read(file) for file in unit.files]
        result = UnitResult(tokenizer.hash, writer.close(), dropped, hashes, writer.frequencies)
        self.work.write_result(unit.number, result)

    def _judged(self, unit: Unit, reader: DocumentReader) -> Iterator[Entry]:
        compared = self.config.selection.compares_documents
        refused = self._refused(unit.number) if compared else {}
        for ordinal, entry in self._entries(unit, reader):
            rule = refused.get(ordinal)
            if not compared and entry.split == TRAIN and self.config.selection.any:
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
        for ordinal, (split, document) in enumerate(documents_of(unit, reader, self.rule)):
            size = len(document.text.encode())
            meter[DOCUMENTS] += 1
            meter[TEXT_BYTES] += size
            meter[SOURCE_BYTES] = min(meter[SOURCE_BYTES] + size, expected)
            yield ordinal, Entry(split, document, size)


def documents_of(unit: Unit, reader: DocumentReader, rule: SplitRule | None) -> Iterator[tuple[str, Document]]:
    """(split, document) of every document of a unit, in the order of its files."""
    for document in reader.documents(unit.files):
        if rule is None:
            assert unit.split is not None
            yield unit.split, document
            continue
        for split, text in rule.assign(document.text):
            yield split, document if text == document.text else replace(document, text=text)


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
