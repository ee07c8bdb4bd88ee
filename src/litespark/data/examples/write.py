"""The tables, tokenizer and manifest of a prepared folder of examples, written from the records of a source."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from litespark import __version__
from litespark.atomic import content_hash
from litespark.data.chunks import ChunkRecord
from litespark.data.examples.config import ExamplesConfig
from litespark.data.examples.encode import DESIRABLE, MARGIN, ExampleEncoder, split_key
from litespark.data.examples.example import Example
from litespark.data.examples.left_out import PROMPT_IN_VALIDATION, LeftOut
from litespark.data.examples.messages import BadExampleError
from litespark.data.examples.mismatched import Mismatched
from litespark.data.examples.records import Record, read_records
from litespark.data.examples.rows import rows_of
from litespark.data.examples.store import FILE, ExampleWriter
from litespark.data.manifest import DomainCounts, Manifest, SplitCounts
from litespark.data.prepare.finish import unigram_entropy
from litespark.data.storage import Storage
from litespark.data.text.document import ONLY_DOMAIN
from litespark.data.text.sources import Corpus
from litespark.data.text.splits import TRAIN, VALIDATION, SplitRule, share_of
from litespark.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)

PACKING = "examples"
"""Of a manifest."""
COLUMNS = "columns"
"""Of a manifest's settings: what of `about` becomes tensors of a batch."""
_LOOKED_AT = 1000


@dataclass
class _Split:
    """What is counted of one split while it is written."""

    path: Path
    frequencies: NDArray[np.int64]
    token_bytes: NDArray[np.int64]
    lengths: list[list[int]] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)
    powers: Counter[int] = field(default_factory=Counter)
    bytes: int = 0
    columns: Counter[str] = field(default_factory=Counter)
    """In how many examples each is."""
    mismatched: Mismatched | None = None
    """Of rated completions, which get a second sequence."""
    end: int | None = None
    """The last special token that the first example trains, or id."""

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True)
        self.file = ExampleWriter(self.path)

    def add(self, example: Example) -> None:
        for whole in [example] if self.mismatched is None else self.mismatched.add(example):
            self._write(whole)

    def _write(self, example: Example) -> None:
        self.file.add(example)
        self.lengths.append([ids.size for ids in example.sequences])
        self.shared.append(example.shared)
        self.powers[sum(self.lengths[-1]).bit_length() - 1] += 1
        for ids, weights in zip(example.sequences, example.weights, strict=True):
            self.bytes += int(self.token_bytes[ids].sum())
            np.add.at(self.frequencies, ids[weights > 0], 1)
        if self.end is None and example.weights[0].any():
            trained = example.sequences[0][example.weights[0] > 0]
            special = trained[self.token_bytes[trained] == 0]
            self.end = int((special if special.size else trained)[-1])
        self.columns.update({MARGIN, DESIRABLE} & example.about.keys())

    def finish(self) -> None:
        for example in [] if self.mismatched is None else self.mismatched.rest():
            self._write(example)
        self.file.close()

    def counts(self, config: ExamplesConfig) -> SplitCounts:
        shared = self.shared if config.share_prompts else [0] * len(self.lengths)
        rows = len(rows_of(self.lengths, config.format, config.seq_len, shared))
        chunk = ChunkRecord(FILE, self.path.stat().st_size, content_hash(self.path), rows * config.seq_len)
        powers = [self.powers[power] for power in range(max(self.powers) + 1)]
        pairs = zip(self.lengths, shared, strict=True)
        tokens = sum(sum(of) - len(of) - (len(of) - 1) * common for of, common in pairs)
        of_all = DomainCounts(ONLY_DOMAIN, len(self.lengths), tokens, self.bytes, self.bytes, powers, [chunk])
        return SplitCounts({ONLY_DOMAIN: of_all})


def write_folder(name: str, config: ExamplesConfig, corpus: Corpus, encoder: ExampleEncoder, folder: Path) -> None:
    """Write all that a prepared folder holds. ValueError: too many bad records, or a split without an example."""
    tokenizer = encoder.tokenizer
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    token_bytes = np.array(tokenizer.token_bytes(), dtype=np.int64)
    splits = {
        split: _Split(
            folder / split / ONLY_DOMAIN / FILE,
            np.zeros(tokenizer.vocab_size, dtype=np.int64),
            token_bytes,
            mismatched=Mismatched(config.seq_len) if config.format == "rated" else None,
        )
        for split in (TRAIN, VALIDATION)
    }
    left_out = LeftOut(config)
    held_out = set[float]()
    for split, record in _dealt(config, corpus, scratch):
        try:
            if record.fault:
                raise BadExampleError(record.fault, record.excerpt)
            _require_apart(held_out, split, record)
            example = encoder.example(record.content)
        except BadExampleError as error:
            left_out.add(split, record, error)
            continue
        left_out.kept += 1
        splits[split].add(example)
    left_out.require_few()
    for split, held in splits.items():
        held.finish()
        if not held.lengths:
            raise left_out.nothing_in(split)
    shutil.rmtree(scratch)
    _warn_of_another_end(splits[TRAIN], tokenizer)
    tokenizer.save(folder)
    counts = {split: held.counts(config) for split, held in splits.items()}
    columns = splits[TRAIN].columns + splits[VALIDATION].columns
    if absent := {name: left_out.kept - count for name, count in columns.items() if count < left_out.kept}:
        raise left_out.partly(absent)
    Manifest(
        name=name,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        bos_id=tokenizer.bos_id,
        tokenizer_hash=tokenizer.hash,
        token_bytes=tokenizer.token_bytes(),
        splits=counts,
        unigram_entropy=unigram_entropy(splits[TRAIN].frequencies, splits[VALIDATION].frequencies),
        settings={"source": config.source, **config.preparation(), COLUMNS: sorted(columns)},
        dropped=left_out.dropped,
        code_version=__version__,
        packing=PACKING,
        seq_len=config.seq_len,
        listing=corpus.listing.to_json(),
    ).write(Storage(folder))


def _dealt(config: ExamplesConfig, corpus: Corpus, scratch: Path) -> Iterator[tuple[str, Record]]:
    """(split, record) of all records: by the splits of the source where it has some, else by their groups.

    What validates comes first.
    """
    if corpus.validation:
        for split, files in ((VALIDATION, corpus.validation), (TRAIN, corpus.training)):
            yield from ((split, record) for record in read_records(files, config, scratch))
        return
    records = read_records(corpus.training, config, scratch)
    first = list(islice(records, _LOOKED_AT))
    groups = [_group(record) for record in first if not record.fault]
    # one prompt alone is all in training, and the other split empty
    cut = SplitRule.fit(groups, config.validation_fraction).cut if groups else 0.0
    waiting: list[Record] = []
    for record in chain(first, records):
        split = VALIDATION if not record.fault and share_of(_group(record)) <= cut else TRAIN
        if record.group is None or split == VALIDATION:
            yield split, record
        else:
            waiting.append(record)
    # where whole groups are held out, a prompt may be in two of them
    yield from ((TRAIN, record) for record in waiting)


def _group(record: Record) -> str:
    return split_key(record.content) if record.group is None else record.group


def _require_apart(held_out: set[float], split: str, record: Record) -> None:
    """Raise BadExampleError for a training record whose prompt is one of the validation, which `held_out` collects."""
    prompt = share_of(split_key(record.content))
    if split == VALIDATION:
        held_out.add(prompt)
    elif prompt in held_out:
        raise BadExampleError(PROMPT_IN_VALIDATION, "its prompt is one of the validation, expected one of its own")


def _warn_of_another_end(training: _Split, tokenizer: Tokenizer) -> None:
    """Generation ends at EOS: a chat that ends its turns with another token needs it to be named."""
    if training.end is not None and training.end != tokenizer.eos_id:
        named = tokenizer.model.token(training.end)
        log.warning(
            "answers end with %s, and generation ends at EOS, %s; set data.eos_token='%s' where the model is to stop "
            "there",
            named,
            tokenizer.model.token(tokenizer.eos_id),
            named,
        )
