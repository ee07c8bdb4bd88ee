"""The documents of a preparation: of a unit, those that the split rule looks at, those a tokenizer learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from litespark.data.prepare.plan import Plan, Unit
from litespark.data.select.select import Selector
from litespark.data.text.document import Document
from litespark.data.text.reader import DocumentReader, require_few_bad
from litespark.data.text.splits import TRAIN, SplitRule


def documents_of(unit: Unit, reader: DocumentReader, rule: SplitRule | None) -> Iterator[tuple[str, Document]]:
    """(split, document) of every document of a unit, in the order of its files."""
    for document in reader.documents(unit.files):
        if rule is None:
            assert unit.split is not None
            yield unit.split, document
            continue
        for split, text in rule.assign(document.text):
            yield split, document if text == document.text else replace(document, text=text)


def split_rule(plan: Plan, scratch: Path) -> SplitRule | None:
    """Deals documents out to the splits; None where the source has its own. ValueError: it holds no document."""
    if plan.validation:
        return None
    reader = DocumentReader(plan.config, scratch=scratch)
    texts = (document.text for document in reader.documents(plan.training))
    if (first := next(texts, None)) is None:
        require_few_bad(0, reader.dropped, plan.config.max_bad_share)
        raise nothing_in(plan.config.source, "it")
    return SplitRule.fit(chain([first], texts), plan.config.validation_fraction)


def tokenizer_sample(plan: Plan, rule: SplitRule | None, scratch: Path) -> Iterator[str]:
    """Training documents that no rule refuses by themselves, from the files in an order that follows no folder."""
    selector = Selector(plan.config.selection)
    reader = DocumentReader(plan.config, scratch=scratch)
    files = tuple(sorted(plan.training, key=lambda file: hashlib.sha256(file.name.encode()).digest()))
    taken = 0
    for split, document in documents_of(Unit(0, TRAIN, files), reader, rule):
        if split != TRAIN or selector.refusal(document) is not None:
            continue
        yield document.text
        taken += len(document.text.encode())
        if taken >= plan.config.tokenizer_sample_bytes:
            return


def nothing_in(source: str, what: str) -> ValueError:
    """The error for a source or split without text."""
    return ValueError(
        f"data.source={source}: {what} holds no document with text in it; expected at least two lines of text. Set "
        "data.source to a file or folder with more text"
    )
