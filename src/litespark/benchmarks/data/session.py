"""`litespark bench data` from start to end: a corpus, a tokenizer, rounds of preparation, and rounds of streaming."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from litespark.benchmarks.child_process import ask
from litespark.benchmarks.data import corpus as corpora
from litespark.benchmarks.data.rounds import TOKENIZER, DataSettings, Rounds, litgpt_interpreter
from litespark.benchmarks.provenance import provenance
from litespark.benchmarks.session import record_path
from litespark.data.chunks import token_dtype
from litespark.data.config import PrepareConfig
from litespark.data.prepare.workers import usable_cores
from litespark.data.tokenizer import Tokenizer
from litespark.metrics.records.data import DataRecord
from litespark.run.compose import compose_parts
from litespark.run.config import ConfigError, Parts

WHAT = "bench-data"
DEFAULTS = ("data=slimpajama", "data.vocab_size=32000", "data.seq_len=4096", "data.micro_batch_size=4")
NO_LITGPT = "litgpt is not installed beside Litespark; name an interpreter that has it: --litgpt-python PATH"
NOT_YET = "not measured yet"
# of the corpus on all cores; on one it is prepared with the configured size
_UNITS_PER_CORE = 2
_SHARDS_PER_CORE = 4
_LEAST_SHARDS = 8
_TOKENIZER_DOCUMENTS = 4000


def with_defaults(overrides: Sequence[str]) -> list[str]:
    """The overrides, with the benchmark's own data and vocabulary before them where they say nothing of these."""
    keys = {word.lstrip("+").partition("=")[0] for word in overrides}
    return [*(word for word in DEFAULTS if word.partition("=")[0] not in keys), *overrides]


def bench_data(
    overrides: Sequence[str],
    settings: DataSettings,
    *,
    command: Sequence[str],
    output: Path,
    say: Callable[[str], None],
    ask: Callable[..., Any] = ask,
) -> tuple[DataRecord, Path]:
    """Measure, and write the record after every round.

    Args:
        overrides: of the config, as the user gave them. Of the data, the tokenizer, the vocabulary and the settings of
            reading are taken; the text is the benchmark's own.
        settings: how it is run.
        command: to reproduce it, for the record.
        output: folder of records; the file is DEVICE/DATE_bench-data_CORPUS_IDTYPE.json in it.
        say: is told what is being done.
        ask: runs a process; replaced in tests.

    Raises:
        ValueError: the config has no text to prepare, or a measurement of ours failed.
        OSError: the record cannot be written.
    """
    parts = compose_parts(with_defaults(overrides))
    if not isinstance(parts.data, PrepareConfig):
        raise ConfigError("data=synthetic is not prepared, so there is nothing to measure; leave it out")
    with tempfile.TemporaryDirectory(prefix="litespark-bench-") as temporary:
        record = begin(parts, overrides, settings, Path(temporary), command, say)
        name = record.corpus.source.replace("_", "-")
        precision = str(token_dtype(record.vocab_size))
        path = record_path(output, record.provenance, WHAT, name, precision)
        record.write(path)  # what cannot be written is known before minutes are spent
        Rounds(parts.data, settings, Path(temporary), ask, say).take(record, lambda: record.write(path))
    return record, path


def begin(
    parts: Parts,
    overrides: Sequence[str],
    settings: DataSettings,
    scratch: Path,
    command: Sequence[str],
    say: Callable[[str], None],
) -> DataRecord:
    """The corpus and the tokenizer, below `scratch`, and a record without runs."""
    config = parts.data
    assert isinstance(config, PrepareConfig)
    cores = usable_cores()
    say(
        f"writing {settings.megabytes:g} MB of the installed packages, and {corpora.FACTOR} times as many, in the "
        "layout of SlimPajama"
    )
    corpus = corpora.write_corpus(
        scratch, text_bytes=int(settings.megabytes * 1e6), shards=max(_LEAST_SHARDS, _SHARDS_PER_CORE * cores)
    )
    if config.tokenizer is not None:
        tokenizer = Tokenizer.load(config.tokenizer, eos_token=config.eos_token)
    else:
        say(f"training a tokenizer of {config.vocab_size:,} ids")
        tokenizer = Tokenizer.train(islice(corpora.documents(), _TOKENIZER_DOCUMENTS), vocab_size=config.vocab_size)
    (scratch / TOKENIZER).mkdir()
    tokenizer.save(scratch / TOKENIZER)
    return DataRecord(
        provenance=provenance(parts, overrides, command, torch.device("cpu"), "fp32"),
        corpus=corpus,
        vocab_size=tokenizer.vocab_size,
        tokenizer_hash=tokenizer.hash,
        cores=cores,
        unit_bytes=max(1, corpus.text_bytes // (_UNITS_PER_CORE * cores)),
        chunk_tokens=config.chunk_tokens,
        rounds=settings.rounds,
        seq_len=config.seq_len,
        micro_batch_size=config.micro_batch_size,
        pinned=torch.accelerator.is_available(),
        litdata=version("litdata"),
        litgpt_reason=NO_LITGPT if litgpt_interpreter(settings) is None else NOT_YET,
    )
