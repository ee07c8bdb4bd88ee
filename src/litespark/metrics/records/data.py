"""The record of `litespark bench data`: raw times of preparation and of streaming, round by round.

Shares and rates are computed from them when the record is read. Within a round the variants take turns, in reversed
order every second round, so a ratio compares what ran next to each other.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import field
from typing import Literal, Self

from pydantic import model_validator

from litespark.metrics.records.base import Count, CountFromZero, NotNegative, Positive, part, record
from litespark.metrics.records.origin import Record

Variant = Literal["encode", "prepare", "litgpt"]
ENCODE: Variant = "encode"
PREPARE: Variant = "prepare"
LITGPT: Variant = "litgpt"
Reader = Literal["litespark", "litespark, domains", "litdata"]
OURS: Reader = "litespark"
OURS_DOMAINS: Reader = "litespark, domains"
LITDATA: Reader = "litdata"
SHARE_GOAL = 0.85
LITGPT_GOAL = 1.5
STREAM_GOAL = 5e6
FLAT = 1.15
"""Most that the peak of memory of the larger corpus may be over the smaller one's to count as flat."""
# litgpt takes special strings inside a text for special tokens; its share of the text is told in bytes, not tokens
_LITGPT_TOLERANCE = 0.05


@part
class CorpusRecord:
    """The text of the smaller corpus.

    Attributes:
        source: where it was taken from.
        documents, text_bytes: of training and validation, in UTF-8; training_bytes: without validation.
        shards, shard_bytes: of training files, and of all files compressed.
        sha256: of the texts in order.
    """

    source: str
    documents: Count
    text_bytes: Count
    training_bytes: Count
    shards: Count
    shard_bytes: Count
    sha256: str


@part
class PreparationRun:
    """One pass over the corpus, in a process of its own.

    Attributes:
        variant: `encode` is the bare tokenizer on texts in memory, `prepare` ours, `litgpt` litgpt's preparation of
            the training shards.
        cores: that it may use.
        round, position: when it came, both from 0.
        seconds, cpu_seconds: by the clock, and of processors together; without the start of the process.
        tokens: `encode` writes no EOS.
        peak_bytes: largest resident memory of any of its processes.
    """

    variant: Variant
    cores: Count
    round: CountFromZero
    position: CountFromZero
    seconds: Positive
    cpu_seconds: NotNegative
    tokens: Count
    peak_bytes: Count


@part
class MemoryRun:
    """A preparation of `factor` times the corpus on all cores; the peak is of its largest process."""

    factor: Count
    seconds: Positive
    tokens: Count
    peak_bytes: Count


@part
class StreamRun:
    """Reading of training rows for a while.

    Attributes:
        reader: `litespark` marks the documents of each row; `litespark, domains` does it from several domains in a
            mixture by size; `litdata` is LitData's StreamingDataset with TokensLoader on the chunks of the first.
        workers: loader processes; 0: in process.
        shuffle: whether rows came in a random order.
        round, position: when it came, both from 0.
        tokens, seconds: counted once the loader was at speed.
        first_batch_seconds: from building the loader to its first batch.
    """

    reader: Reader
    workers: CountFromZero
    shuffle: bool
    round: CountFromZero
    position: CountFromZero
    tokens: Count
    seconds: Positive
    first_batch_seconds: NotNegative

    @property
    def tokens_per_second(self) -> float:
        """The rate."""
        return self.tokens / self.seconds


@record
class DataRecord(Record):
    """One measurement on one machine.

    Attributes:
        corpus: what was prepared.
        vocabulary, tokenizer_hash: of the tokenizer that all variants use.
        cores: of the machine that this benchmark may use.
        unit_bytes, chunk_tokens: settings of the preparation on all cores, which needs several units.
        rounds: that were asked for.
        litgpt: versions of litgpt and its LitData; None: not measured, for `litgpt_reason`.
        litdata: the version that streams beside ours.
        seq_len, micro_batch_size: of the streams.
        pinned: whether batches were copied to page-locked memory, as they are where there is a GPU.
    """

    corpus: CorpusRecord
    vocab_size: int
    tokenizer_hash: str
    cores: Count
    unit_bytes: Count
    chunk_tokens: Count
    rounds: Count
    seq_len: Count
    micro_batch_size: Count
    pinned: bool
    litdata: str
    litgpt: str | None = None
    litgpt_reason: str | None = None
    preparation: list[PreparationRun] = field(default_factory=list)
    memory: list[MemoryRun] = field(default_factory=list)
    streaming: list[StreamRun] = field(default_factory=list)
    schema: Literal["litespark.bench.data/2"] = field(default="litespark.bench.data/2", kw_only=True)

    def prepared(self, variant: str, cores: int) -> list[PreparationRun]:
        """The runs of a variant, by round."""
        found = [run for run in self.preparation if (run.variant, run.cores) == (variant, cores)]
        return sorted(found, key=lambda run: run.round)

    def streamed(self, reader: str, workers: int, *, shuffle: bool = True) -> list[StreamRun]:
        """The runs of a reader, by round."""
        found = [run for run in self.streaming if (run.reader, run.workers, run.shuffle) == (reader, workers, shuffle)]
        return sorted(found, key=lambda run: run.round)

    def written_tokens(self) -> int:
        """That a preparation of the corpus writes; 0 before there was one."""
        return next((run.tokens for run in self.preparation if run.variant == PREPARE), 0)

    def shares(self, cores: int, *, of_cpu: bool = False) -> list[float]:
        """By round: time of the bare tokenizer over that of the preparation of the same text, 1 is the most."""
        pairs = zip(self.prepared(ENCODE, cores), self.prepared(PREPARE, cores), strict=False)
        if of_cpu:
            return [bare.cpu_seconds / ours.cpu_seconds for bare, ours in pairs]
        return [bare.seconds / ours.seconds for bare, ours in pairs]

    def litgpt_ratios(self) -> list[float]:
        """By round: tokens per second of our preparation over litgpt's, both on all cores."""
        pairs = zip(self.prepared(PREPARE, self.cores), self.prepared(LITGPT, self.cores), strict=False)
        return [ours.tokens / ours.seconds / (theirs.tokens / theirs.seconds) for ours, theirs in pairs]

    def memory_ratio(self) -> float | None:
        """Peak of memory of the larger corpus over the smaller one's; None: not measured."""
        peaks = {run.factor: run.peak_bytes for run in self.memory}
        return peaks[max(peaks)] / peaks[min(peaks)] if len(peaks) > 1 else None

    def shuffle_costs(self) -> list[float]:
        """By round: share of the rate in process that shuffling takes away."""
        pairs = zip(self.streamed(OURS, 0), self.streamed(OURS, 0, shuffle=False), strict=False)
        return [1 - shuffled.tokens_per_second / plain.tokens_per_second for shuffled, plain in pairs]

    @property
    def complete(self) -> bool:
        """Whether all rounds are there."""
        variants = [(variant, cores) for cores in (1, self.cores) for variant in (ENCODE, PREPARE)]
        variants += [(LITGPT, self.cores)] if self.litgpt is not None else []
        runs: list[Sequence[PreparationRun | StreamRun]] = [self.prepared(*each) for each in variants]
        runs += [self.streamed(OURS, workers) for workers in (0, 1, 2)]
        rounds = list(range(self.rounds))
        return self.memory_ratio() is not None and all([run.round for run in each] == rounds for each in runs)

    def asked(self) -> tuple[object, ...]:
        """What was to be measured."""
        return self.corpus, self.tokenizer_hash, self.cores, self.rounds, self.seq_len, self.micro_batch_size

    @model_validator(mode="after")
    def _counts_the_same_tokens(self) -> Self:
        if (self.litgpt is None) == (self.litgpt_reason is None):
            raise ValueError(f"litgpt: got {self.litgpt}, expected either a version or a reason why it is absent")
        places = [(run.round, run.position) for run in self.preparation]
        places += [(run.round, -1 - run.position) for run in self.streaming]
        if len(set(places)) < len(places):
            raise ValueError("preparation, streaming: got two runs at one place of one round, expected one")
        encoded = {run.tokens - (self.corpus.documents if run.variant == PREPARE else 0) for run in self.preparation
                   if run.variant != LITGPT}  # fmt: skip
        if len(encoded) > 1:
            raise ValueError(
                f"preparation: got {sorted(encoded)} tokens without EOS, expected one number: preparation writes what "
                "the bare tokenizer yields, and one EOS a document"
            )
        expected = self.written_tokens() * self.corpus.training_bytes / self.corpus.text_bytes
        for run in self.prepared(LITGPT, self.cores):
            if expected and abs(run.tokens / expected - 1) > _LITGPT_TOLERANCE:
                raise ValueError(f"preparation: got {run.tokens} tokens by litgpt, expected about {expected:.0f}")
        return self


def median(values: list[float]) -> float | None:
    """The median; None of nothing."""
    return statistics.median(values) if values else None
