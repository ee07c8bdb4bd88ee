"""`litespark bench data` from start to end: a tokenizer, and rounds of preparing and of streaming."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch

from litespark.benchmarks.data.process import texts_of
from litespark.benchmarks.session import provenance, record_path, turns
from litespark.child_process import ask, call
from litespark.config.settings import settings
from litespark.data.chunks import token_dtype
from litespark.data.config import PrepareConfig
from litespark.data.prepare.workers import usable_cores
from litespark.data.select.config import SelectionConfig
from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizer_files import tokenizer_file
from litespark.device import device_count
from litespark.metrics.records.data import (
    ENCODE,
    LITDATA,
    OURS,
    PREPARE,
    DataRecord,
    PreparationRun,
    Reader,
    StreamRun,
    Variant,
)
from litespark.ranges import Range, Repeats, Seconds
from litespark.run.composing import compose_parts
from litespark.run.config import ConfigError

DEFAULTS = ("data=installed_packages", "data.vocab_size=32000", "data.seq_len=4096", "data.micro_batch_size=4")
_PROCESS = "litespark.benchmarks.data.process"
# of the corpus on all cores; on one it is prepared with the configured size
_UNITS_PER_CORE = 2
_TOKENIZER_DOCUMENTS = 4000
# several to the streamed corpus
_STREAM_CHUNK_TOKENS = 1 << 20
# (reader, workers, shuffle) of what is streamed in a round
CASES: tuple[tuple[Reader, int, bool], ...] = (
    *((reader, 0, False) for reader in (OURS, LITDATA)),
    *((reader, workers, True) for workers in (0, 1, 2) for reader in (OURS, LITDATA)),
)


@settings("--")
class DataSettings:
    """How it is run: `megabytes` of 10^6 bytes of text, `seconds` for each stream, `timeout` of a measurement."""

    rounds: Repeats = 3
    megabytes: Annotated[float, Range(above=0, at_most=1e6)] = 24.0
    seconds: Seconds = 2.0
    timeout: Seconds = 900.0


def bench_data(
    overrides: Sequence[str],
    settings: DataSettings,
    *,
    command: Sequence[str],
    output: Path,
    say: Callable[[str], None],
    ask: Callable[..., Any] = ask,
) -> tuple[DataRecord, Path]:
    """Measure, and write the record after every round, as DEVICE/DATE_bench-data_SOURCE_IDTYPE.json in `output`.

    The text is that of the config's source, at most so many megabytes of its files, and all of it is kept. `command` is
    to reproduce it, and `ask` runs a process.
    """
    parts = compose_parts(with_defaults(overrides))
    if not isinstance(parts.data, PrepareConfig):
        raise ConfigError("data=synthetic is not prepared, so there is nothing to measure; leave it out")
    cores, most_bytes = usable_cores(), int(settings.megabytes * 1e6)
    config = replace(parts.data, max_bytes=most_bytes, name="bench", packing="concat", domain_field=None,
                     selection=SelectionConfig(), nodes=1, node_rank=0)  # fmt: skip
    say(f"reading {settings.megabytes:g} MB of {config.source}")
    texts = texts_of(config)
    text_bytes = sum(len(text.encode()) for text in texts)
    with tempfile.TemporaryDirectory(prefix="litespark-bench-") as temporary:
        scratch = Path(temporary)
        tokenizer = _tokenizer(config, texts, say)
        (scratch / "tokenizer").mkdir()
        tokenizer.save(scratch / "tokenizer")
        record = DataRecord(
            provenance(parts, overrides, command, torch.device("cpu"), "fp32"), source=Path(config.source).name,
            documents=len(texts), text_bytes=text_bytes, vocab_size=tokenizer.vocab_size, cores=cores,
            rounds=settings.rounds, seq_len=config.seq_len, micro_batch_size=config.micro_batch_size,
            pinned=device_count() > 0, litdata=version("litdata"),
        )  # fmt: skip
        name = re.sub(r"[^A-Za-z0-9.]+", "-", record.source)
        path = record_path(output, record.provenance, "bench-data", name, str(token_dtype(record.vocab_size)))
        record.write(path)  # what cannot be written is known before minutes are spent
        measured = _Processes(config, scratch, ask, settings.timeout)
        _prepare_in_turns(record, measured, say, lambda: record.write(path))
        say("preparing what is streamed")
        folder = measured.prepare(cores, chunk_tokens=_STREAM_CHUNK_TOKENS)["folder"]
        for number, cases in itertools.groupby(turns(CASES, record.rounds), key=lambda turn: turn[0]):
            say(f"round {number + 1} of {record.rounds}: streaming")
            ordered = [case for _, _, case in cases]
            answers = measured.stream(folder, ordered, settings.seconds, cores)
            record.streaming += [
                StreamRun(*case, round=number, **answer) for case, answer in zip(ordered, answers, strict=True)
            ]
            record.write(path)
    return record, path


def with_defaults(overrides: Sequence[str]) -> list[str]:
    """The overrides, with the benchmark's own data and vocabulary before them where they say nothing of these."""
    keys = {word.lstrip("+").partition("=")[0] for word in overrides}
    return [*(word for word in DEFAULTS if word.partition("=")[0] not in keys), *overrides]


def _tokenizer(config: PrepareConfig, texts: list[str], say: Callable[[str], None]) -> Tokenizer:
    if config.tokenizer is not None:
        return Tokenizer.load(config.tokenizer, eos_token=config.eos_token)
    say(f"training a tokenizer of {config.vocab_size:,} ids")
    return Tokenizer.train(texts[:_TOKENIZER_DOCUMENTS], vocab_size=config.vocab_size)


def _prepare_in_turns(
    record: DataRecord, measured: _Processes, say: Callable[[str], None], save: Callable[[], None]
) -> None:
    variants: list[tuple[Variant, int]] = [
        (variant, cores) for cores in sorted({1, record.cores}) for variant in (ENCODE, PREPARE)
    ]
    for number, position, (variant, cores) in turns(variants, record.rounds):
        say(f"round {number + 1} of {record.rounds}: {variant} on {cores} cores")
        if variant == ENCODE:
            answer = measured.encode(cores)
        else:
            unit_bytes = max(1, record.text_bytes // (_UNITS_PER_CORE * cores))
            answer = measured.prepare(cores, **({"unit_bytes": unit_bytes} if cores > 1 else {}))
        record.preparation.append(PreparationRun(variant, cores, number, answer["seconds"], answer["tokens"]))
        if position == len(variants) - 1:
            save()


class _Processes:
    """The measurements, each in a process of its own; everything that they write is below `scratch`."""

    def __init__(self, config: PrepareConfig, scratch: Path, ask: Callable[..., Any], timeout: float) -> None:
        self.config, self.scratch, self.ask, self.timeout = config, scratch, ask, timeout
        self._roots = (str(scratch / f"prepared-{number}") for number in itertools.count())

    def encode(self, cores: int) -> Any:
        tokenizer, config = tokenizer_file(self.scratch / "tokenizer"), asdict(self.config)
        return self._answer("encode", {"tokenizer": str(tokenizer), "config": config}, cores)

    def prepare(self, cores: int, **changes: Any) -> Any:
        """The text on so many cores, into a new folder."""
        tokenizer, root = str(self.scratch / "tokenizer"), next(self._roots)
        config = replace(self.config, root=root, tokenizer=tokenizer, eos_token=None, processes=cores, **changes)
        return self._answer("prepare_corpus", {"config": asdict(config)}, cores)

    def stream(self, folder: str, cases: Sequence[Any], seconds: float, cores: int) -> Any:
        config = asdict(replace(self.config, source=folder, tokenizer=None))
        return self._answer("stream", {"config": config, "cases": list(cases), "seconds": seconds}, cores)

    def _answer(self, function: str, request: dict[str, Any], cores: int) -> Any:
        program, asked = call(f"{_PROCESS}:{function}"), {**request, "cores": cores}
        # one thread of linear algebra: there is none in the data, and idle pools only disturb
        threads = {"RAYON_NUM_THREADS": str(cores), "OMP_NUM_THREADS": "1"}
        return self.ask(program, asked, self.scratch / "process", seconds=self.timeout, environment=threads)
