"""Text to a prepared folder: `train/` and `validation/` chunks, the tokenizer, and last the manifest.

The folder is built under another name beside its place and renamed when it is whole, so that what has the name is
complete. Its name ends in a hash of everything that decides its content; preparing the same again finds it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from litespark import __version__
from litespark.data import manifest as manifests
from litespark.data.chunks import ChunkWriter, token_dtype
from litespark.data.config import PrepareConfig
from litespark.data.ledger import Ledger, LedgerRow
from litespark.data.manifest import DomainCounts, Manifest, SplitCounts
from litespark.data.preparation.folders import build_folder
from litespark.data.storage import Storage
from litespark.data.text.document import ONLY_DOMAIN
from litespark.data.text.files import Source, SourceFile
from litespark.data.text.reader import DocumentReader
from litespark.data.text.sources import corpus
from litespark.data.text.splits import TRAIN, VALIDATION, SplitRule
from litespark.data.tokenizer import Tokenizer

FORMAT = 1
"""Raised when the same settings and text are written differently."""
_BATCH_CHARACTERS = 1 << 20
_PIECE_CHARACTERS = 1 << 20


def prepare(config: PrepareConfig, *, progress: bool = True) -> Path:
    """The prepared folder of a config; writes it unless it is there.

    Args:
        config: what to prepare. A `source` that is itself a prepared folder is returned as it is.
        progress: one line on standard error while it works.

    Raises:
        ValueError: an unusable source, tokenizer or root, too many bad documents, or too little space.
    """
    if (prepared := _already_prepared(config)) is not None:
        return prepared
    plan = _plan(config)
    target = plan.target
    if target.is_dir():
        Manifest.read(target)
        return target
    build_folder(
        target,
        lambda folder: _write(plan, folder, progress=progress),
        needed_bytes=_needed_bytes(plan),
        purpose=f"preparing {config.source}",
    )
    return target


def check(config: PrepareConfig) -> None:
    """Raise the ValueError that `prepare` would raise for a missing source or tokenizer, without writing anything."""
    if _already_prepared(config) is None:
        _plan(config)


@dataclass(frozen=True)
class _Plan:
    """A config with what it names: files, tokenizer, and the folder they lead to."""

    config: PrepareConfig
    training: Source
    validation: Source | None
    tokenizer: Tokenizer | None
    target: Path


def _already_prepared(config: PrepareConfig) -> Path | None:
    path = Path(config.source).expanduser()
    if (path / manifests.FILE).is_file():
        Manifest.read(path)
        return path
    if (path / "index.json").is_file() or (path / TRAIN / "index.json").is_file():
        Manifest.read(path)  # chunks without a manifest: says so
    return None


def _plan(config: PrepareConfig) -> _Plan:
    text = corpus(config)
    tokenizer = None
    if config.tokenizer is not None:
        tokenizer = Tokenizer.load(Path(config.tokenizer).expanduser(), eos_token=config.eos_token)
        if tokenizer.vocabulary != config.vocabulary:
            raise ValueError(
                f"data.vocabulary={config.vocabulary}, but data.tokenizer={config.tokenizer} has "
                f"{tokenizer.vocabulary} ids. Set data.vocabulary={tokenizer.vocabulary}, or name another tokenizer."
            )
    identity = {
        "format": FORMAT,
        "settings": config.preparation() | {"tokenizer": tokenizer.hash if tokenizer else None},
        "files": [source.fingerprint() for source in text.sources],
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    target = Path(config.root).expanduser() / f"{config.name or text.name}-{digest}"
    return _Plan(config, text.training, text.validation, tokenizer, target)


def _write(plan: _Plan, folder: Path, *, progress: bool) -> None:
    config = plan.config
    rule = None
    if plan.validation is None:
        documents = _reader(config).documents(plan.training.files)
        if (first := next(documents, None)) is None:
            raise _nothing_in(config.source, "it")
        rule = SplitRule.fit(chain([first], documents), config.validation_fraction)
    with _progress_line(progress) as line:
        task = line.add_task(f"Preparing {plan.target.name}: tokenizer", total=None)
        tokenizer = plan.tokenizer or Tokenizer.train(_tokenizer_sample(plan, rule), vocabulary=config.vocabulary)
        tokenizer.save(folder)
        line.update(task, description=f"Preparing {plan.target.name}: documents")
        reader = _reader(config)
        token_bytes = np.array(tokenizer.token_bytes(), dtype=np.int64)
        splits = {
            split: _SplitWriter(folder / split / ONLY_DOMAIN, tokenizer, config.chunk_tokens)
            for split in (TRAIN, VALIDATION)
        }
        for split, text in _documents(plan, rule, reader):
            splits[split].add(text)
            line.advance(task)
        for writer in splits.values():
            writer.close()
        line.update(task, total=line.tasks[0].completed)
    counts = {split: writer.counts(token_bytes) for split, writer in splits.items()}
    if progress:
        tokens = " and ".join(f"{held.tokens:,} {split}" for split, held in counts.items())
        line.console.print(f"Prepared {plan.target.name}: {tokens} tokens", highlight=False, soft_wrap=True)
    for split, held in counts.items():
        if not held.documents:
            raise _nothing_in(config.source, f"its {split} split")
    Manifest(
        name=plan.target.name,
        vocabulary=tokenizer.vocabulary,
        eos_id=tokenizer.eos_id,
        bos_id=tokenizer.bos_id,
        tokenizer_hash=tokenizer.hash,
        token_bytes=token_bytes.tolist(),
        splits=counts,
        unigram_entropy=_unigram_entropy(splits[TRAIN].frequencies, splits[VALIDATION].frequencies),
        settings={"source": config.source, **config.preparation()},
        ledger=Ledger(
            LedgerRow(TRAIN, ONLY_DOMAIN, f"reading/{reason}", count) for reason, count in reader.dropped.items()
        ),
        code_version=__version__,
    ).write(Storage(folder))


def _nothing_in(source: str, what: str) -> ValueError:
    return ValueError(
        f"data.source={source}: {what} holds no document with text in it; expected at least two lines of text. Set "
        "data.source to a file or folder with more text"
    )


def _reader(config: PrepareConfig) -> DocumentReader:
    return DocumentReader(text_field=config.text_field, max_bad_share=config.max_bad_share)


def _documents(plan: _Plan, rule: SplitRule | None, reader: DocumentReader) -> Iterator[tuple[str, str]]:
    """(split, text) of every document, in the order of the files."""
    if rule is not None:
        for text in reader.documents(plan.training.files):
            yield from rule.assign(text)
        return
    assert plan.validation is not None
    for split, source in ((TRAIN, plan.training), (VALIDATION, plan.validation)):
        for text in reader.documents(source.files):
            yield split, text


def _tokenizer_sample(plan: _Plan, rule: SplitRule | None) -> Iterator[str]:
    """Training documents up to the configured size, from the files in an order that follows no folder."""

    def shuffled(file: SourceFile) -> bytes:
        return hashlib.sha256(file.name.encode()).digest()

    taken = 0
    for text in _reader(plan.config).documents(sorted(plan.training.files, key=shuffled)):
        for split, part in rule.assign(text) if rule else [(TRAIN, text)]:
            if split != TRAIN:
                continue
            yield part
            taken += len(part.encode())
            if taken >= plan.config.tokenizer_sample_bytes:
                return


class _SplitWriter:
    """Encodes the documents of one split in batches, ends each with EOS, and counts."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, chunk_tokens: int) -> None:
        self.chunks = ChunkWriter(folder, vocabulary=tokenizer.vocabulary, chunk_tokens=chunk_tokens)
        self.tokenizer = tokenizer
        self.frequencies: NDArray[np.int64] = np.zeros(tokenizer.vocabulary, dtype=np.int64)
        self.documents = 0
        self._waiting: list[tuple[str, bool]] = []
        self._characters = 0
        self._open: list[NDArray[np.generic]] = []

    def add(self, text: str) -> None:
        """Take one document."""
        pieces = _pieces(text)
        for number, piece in enumerate(pieces, start=1):
            self._waiting.append((piece, number == len(pieces)))
            self._characters += len(piece)
            if self._characters >= _BATCH_CHARACTERS:
                self._encode()

    def close(self) -> None:
        """Write what waits, and the index."""
        self._encode()
        self.chunks.close()

    def counts(self, token_bytes: NDArray[np.int64]) -> SplitCounts:
        """What was written."""
        size = int(self.frequencies @ token_bytes)
        counts = DomainCounts(
            folder=ONLY_DOMAIN,
            documents=self.documents,
            tokens=int(self.frequencies.sum()),
            bytes=size,
            text_bytes=size,
            chunks=self.chunks.records,
        )
        return SplitCounts({ONLY_DOMAIN: counts})

    def _encode(self) -> None:
        encoded = self.tokenizer.encode_batch([piece for piece, _ in self._waiting])
        for ids, (_, ends_document) in zip(encoded, self._waiting, strict=True):
            if ends_document:
                ids.append(self.tokenizer.eos_id)
            self._open.append(np.array(ids, dtype=self.chunks.dtype))
            self.frequencies += np.bincount(self._open[-1], minlength=self.frequencies.size)
            if ends_document:
                self.chunks.add(np.concatenate(self._open))
                self._open = []
                self.documents += 1
        self._waiting, self._characters = [], 0


def _pieces(text: str) -> list[str]:
    """A long document in parts that end at line breaks: encoding takes many times the memory of its text."""
    pieces, start = [], 0
    while len(text) - start > _PIECE_CHARACTERS:
        end = text.rfind("\n", start + 1, start + _PIECE_CHARACTERS) + 1 or start + _PIECE_CHARACTERS
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _unigram_entropy(training: NDArray[np.int64], validation: NDArray[np.int64]) -> float:
    """See `Manifest.unigram_entropy`."""
    nats = math.log(int(training.sum()) + training.size) - np.log(training + 1.0)
    return float(validation @ nats / validation.sum())


def _needed_bytes(plan: _Plan) -> int:
    """Bytes that the tokens will probably take: text has about three bytes a token and compresses to about a third."""
    files = plan.training.files + (plan.validation.files if plan.validation else ())
    text_bytes = sum(file.size * (3 if file.compressed else 1) for file in files)
    return int(1.25 * text_bytes / 3 * token_dtype(plan.config.vocabulary).itemsize)


def _progress_line(show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not show)
