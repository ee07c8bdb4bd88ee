"""The stages of a preparation, each continued where it was left: tokenizer, fingerprints, duplicates, units."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from litespark.data import manifest as manifests
from litespark.data import tokenizer_files as tokenizers
from litespark.data.prepare.finish import nothing_in
from litespark.data.prepare.plan import Plan, Unit
from litespark.data.prepare.progress import Display
from litespark.data.prepare.unit import DOCUMENTS, METERS, SOURCE_BYTES, TEXT_BYTES, TOKENIZER, documents_of
from litespark.data.prepare.work import DUPLICATES, FINGERPRINTS, UNITS, Work
from litespark.data.prepare.workers import run_units, shared_meters
from litespark.data.select.duplicates import duplicates, read_column
from litespark.data.select.select import Selector
from litespark.data.text.absent_fields import refuse_absent_fields
from litespark.data.text.reader import DocumentReader, require_few_bad
from litespark.data.text.splits import TRAIN, SplitRule
from litespark.data.tokenizer import Tokenizer

POLL_SECONDS = 5.0
"""Between looks at what other nodes have done."""


class Stages:
    """Takes the units of this node through the stages; `scratch` is a folder of this process alone."""

    def __init__(self, plan: Plan, scratch: Path, display: Display) -> None:
        self.plan = plan
        self.scratch = scratch
        self.display = display
        self.work = Work(plan.storage)

    def run(self) -> Tokenizer | None:
        """All that this node can do; None where other nodes are not done, else the tokenizer, to finish with."""
        before = self.work.done(UNITS)
        if before:
            self.display.say(f"{len(before)} of {len(self.plan.units)} units were found done")
        else:
            for line in self.plan.listing.lines():
                self.display.say(line)
            refuse_absent_fields(self.plan.config, self.plan.training, self.scratch)
        rule = split_rule(self.plan, self.scratch)
        tokenizer = self._tokenizer(rule)
        self.plan = replace(self.plan, tokenizer=tokenizer)
        # a node whose units are done needs nothing of the others', who may end and remove it meanwhile
        if self.plan.config.selection.compares_documents and not before.issuperset(self.plan.own_units):
            self._run_units(rule, FINGERPRINTS, "fingerprints")
            self._wait_for(FINGERPRINTS)
            self._compare_documents()
        self._run_units(rule, UNITS, "documents")
        missing = self._missing(UNITS)
        if missing and not self.plan.storage.exists(manifests.FILE):  # else another node has finished just now
            self.display.say(
                f"this node is done; {self._of_nodes(missing)} still to come. The node that ends last finishes the "
                "data set; where one was lost, start it again with the same settings."
            )
            return None
        return tokenizer

    def _tokenizer(self, rule: SplitRule | None) -> Tokenizer:
        """The tokenizer as it is saved in the prepared folder. Several nodes that find none each train it: the same."""
        folder, storage = self.scratch / TOKENIZER, self.plan.storage
        folder.mkdir(parents=True)
        file = self.plan.tokenizer.model.file if self.plan.tokenizer else tokenizers.FILE
        files = (tokenizers.CONFIG_FILE, file)  # last the one that is looked for
        if storage.exists(file):
            for name in files:
                storage.fetch(name, folder / name)
            return Tokenizer.load(folder)
        self.display.stage("tokenizer")
        tokenizer = self.plan.tokenizer or Tokenizer.train(self._sample(rule), vocab_size=self.plan.config.vocab_size)
        tokenizer.save(folder)
        for name in files:
            storage.write(name, (folder / name).read_bytes())
        return Tokenizer.load(folder)

    def _sample(self, rule: SplitRule | None) -> Iterator[str]:
        config = self.plan.config
        of_source = sum(file.text_bytes for file in self.plan.training)
        self.display.say(f"training a tokenizer of {config.vocab_size:,} ids")
        meter = np.zeros((1, len(METERS)), dtype=np.int64)
        self.display.stage("tokenizer, its text", meter, [0], min(config.tokenizer_sample_bytes, of_source))
        for text in tokenizer_sample(self.plan, rule, self.scratch):
            meter[0, DOCUMENTS] += 1
            meter[0, [TEXT_BYTES, SOURCE_BYTES]] += len(text.encode())
            yield text
        self.display.stage("tokenizer, its merges")

    def _run_units(self, rule: SplitRule | None, stage: str, doing: str) -> None:
        missing = set(self._missing(stage))
        numbers = [number for number in self.plan.own_units if number in missing]
        memory, meters = shared_meters(len(self.plan.units))
        self.display.stage(doing, meters, numbers, sum(self.plan.units[number].text_bytes for number in numbers))
        run_units(self.plan, rule, self.scratch, stage, numbers, memory)

    def _compare_documents(self) -> None:
        """Find duplicates over all units; in every node, which is simpler than to wait for one and gives the same."""
        if not self._missing(DUPLICATES):
            return
        self.display.stage("comparing documents")
        folder = self.scratch / FINGERPRINTS
        folder.mkdir()
        files = [self.work.arrays_file(FINGERPRINTS, unit.number, folder) for unit in self.plan.units]
        copies = duplicates([partial(read_column, path) for path in files], self.plan.config.selection)
        for unit, arrays in zip(self.plan.units, copies, strict=True):
            self.work.write_arrays(DUPLICATES, unit.number, arrays)

    def _wait_for(self, stage: str) -> None:
        waiting: list[int] = []
        while missing := self._missing(stage):
            if missing != waiting:
                self.display.stage(f"waiting for {stage}, {self._of_nodes(missing)} still to come")
                waiting = missing
            time.sleep(POLL_SECONDS)

    def _missing(self, stage: str) -> list[int]:
        done = self.work.done(stage)
        return [unit.number for unit in self.plan.units if unit.number not in done]

    def _of_nodes(self, missing: list[int]) -> str:
        ranks = sorted({self.plan.node_of(number) for number in missing})
        return f"{len(missing)} of {len(self.plan.units)} units, of node_rank {', '.join(map(str, ranks))},"


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
