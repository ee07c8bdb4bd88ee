"""Text to a prepared folder: `train/` and `validation/` chunks, the tokenizer, and last the manifest.

The folder is built under another name beside its place and renamed when it is whole, so that what has the name is
complete. Its name ends in a hash of everything that decides its content; preparing the same again finds it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from litespark.data import manifest as manifests
from litespark.data.chunks import ChunkWriter, token_dtype
from litespark.data.config import PrepareConfig
from litespark.data.manifest import Manifest, SplitCounts
from litespark.data.sources import DocumentReader, Source, SourceFile, resolve_source
from litespark.data.splits import TRAIN, VALIDATION, SplitRule
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
    root = target.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"data.root={root} cannot be made a folder: {error}. Set data.root to one.") from error
    with _lock(root / f".{target.name}.lock"):
        if target.is_dir():
            return target
        partial = root / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # whoever left it died: its lock is free
        _check_space(root, plan)
        try:
            partial.mkdir()
            _write(plan, partial, progress=progress)
            _flush_to_disk(partial)
            partial.rename(target)
            _flush_to_disk(root, recurse=False)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
                raise
            raise ValueError(
                f"{partial} cannot be written: {error}. Make room or set data.root to another folder."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
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
    path = Path(config.source).expanduser()
    training, validation = config.source, None
    if (path / TRAIN).is_dir() and (path / VALIDATION).is_dir():
        training, validation = str(path / TRAIN), str(path / VALIDATION)
    sources = [resolve_source(part, how_to_get=config.how_to_get) for part in (training, validation) if part]
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
        "files": [source.fingerprint() for source in sources],
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    name = config.name or (sources[0].name if validation is None else path.resolve().name)
    target = Path(config.root).expanduser() / f"{name}-{digest}"
    return _Plan(config, sources[0], sources[1] if validation else None, tokenizer, target)


def _write(plan: _Plan, folder: Path, *, progress: bool) -> None:
    config = plan.config
    rule = None
    if plan.validation is None:
        rule = SplitRule.fit(_reader(config).documents(plan.training.files), config.validation_fraction)
    with _progress_line(progress) as line:
        task = line.add_task(f"Preparing {plan.target.name}: tokenizer", total=None)
        tokenizer = plan.tokenizer or Tokenizer.train(_tokenizer_sample(plan, rule), vocabulary=config.vocabulary)
        tokenizer.save(folder)
        line.update(task, description=f"Preparing {plan.target.name}: documents")
        reader = _reader(config)
        token_bytes = np.array(tokenizer.token_bytes(), dtype=np.int64)
        splits = {split: _SplitWriter(folder / split, tokenizer, config.chunk_tokens) for split in (TRAIN, VALIDATION)}
        for split, text in _documents(plan, rule, reader):
            splits[split].add(text)
            line.advance(task)
        for writer in splits.values():
            writer.close()
        line.update(task, total=line.tasks[0].completed)
    counts = {split: writer.counts(token_bytes) for split, writer in splits.items()}
    for split, held in counts.items():
        if not held.documents:
            raise ValueError(f"the {split} split of data.source={config.source} holds no document with text in it")
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
        dropped=dict(sorted(reader.dropped.items())),
        code_version=version("litespark"),
    ).write(folder)


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
        self._waiting: list[str] = []
        self._characters = 0

    def add(self, text: str) -> None:
        """Take one document."""
        self._waiting.append(text)
        self._characters += len(text)
        if self._characters >= _BATCH_CHARACTERS:
            self._encode()

    def close(self) -> None:
        """Write what waits, and the index."""
        self._encode()
        self.chunks.close()

    def counts(self, token_bytes: NDArray[np.int64]) -> SplitCounts:
        """What was written."""
        return SplitCounts(
            documents=self.documents,
            tokens=int(self.frequencies.sum()),
            bytes=int(self.frequencies @ token_bytes),
            chunks=self.chunks.records,
        )

    def _encode(self) -> None:
        pieces = [_pieces(text) for text in self._waiting]
        encoded = iter(self.tokenizer.encode_batch([piece for document in pieces for piece in document]))
        for document in pieces:
            ids = [number for _ in document for number in next(encoded)]
            ids.append(self.tokenizer.eos_id)
            written = self.chunks.add(ids)
            self.frequencies += np.bincount(written, minlength=self.frequencies.size)
        self.documents += len(self._waiting)
        self._waiting, self._characters = [], 0


def _pieces(text: str) -> list[str]:
    """A long document in parts that end at line breaks: encoding takes many times the memory of its text."""
    pieces = []
    while len(text) > _PIECE_CHARACTERS:
        place = text.rfind("\n", 1, _PIECE_CHARACTERS) + 1 or _PIECE_CHARACTERS
        pieces.append(text[:place])
        text = text[place:]
    return [*pieces, text]


def _unigram_entropy(training: NDArray[np.int64], validation: NDArray[np.int64]) -> float:
    """See `Manifest.unigram_entropy`."""
    nats = math.log(int(training.sum()) + training.size) - np.log(training + 1.0)
    return float(validation @ nats / validation.sum())


def _check_space(root: Path, plan: _Plan) -> None:
    """Refuse when the disk cannot hold what the text will probably become.

    Text takes about three bytes a token and compresses to about a third; a quarter is added to that.
    """
    files = plan.training.files + (plan.validation.files if plan.validation else ())
    text_bytes = sum(file.size * (3 if file.compressed else 1) for file in files)
    needed = int(1.25 * text_bytes / 3 * token_dtype(plan.config.vocabulary).itemsize)
    free = shutil.disk_usage(root).free
    if free < needed:
        raise ValueError(
            f"{root} has {free / 1e9:.2f} GB free; preparing {plan.config.source} needs about {needed / 1e9:.2f} GB. "
            "Make room, or set data.root to a folder on another disk."
        )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock file; the kernel frees it when its holder dies, by kill -9 too."""
    try:
        file = path.open("w")
    except OSError as error:
        raise ValueError(f"{path.parent} cannot be written: {error}. Set data.root to a folder that can.") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flush_to_disk(path: Path, *, recurse: bool = True) -> None:
    if recurse:
        for found in path.rglob("*"):
            _flush_to_disk(found, recurse=False)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _progress_line(show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not show)
