"""The record of `litespark bench data`: raw times of preparation and of streaming, round by round.

Within a round the variants take turns, in reversed order every second round, so a ratio compares what ran next to each
other.
"""

from dataclasses import field
from typing import Literal, Self

from pydantic import model_validator

from litespark.metrics.records.base import Count, CountFromZero, NotNegative, Positive, part, record
from litespark.metrics.records.origin import Record

Variant = Literal["encode", "prepare"]
ENCODE: Variant = "encode"
PREPARE: Variant = "prepare"
Reader = Literal["litespark", "litdata"]
OURS: Reader = "litespark"
LITDATA: Reader = "litdata"


@part
class PreparationRun:
    """One pass over the corpus, in a process of its own whose start is not counted.

    `encode` is the bare tokenizer on texts in memory and writes no EOS, `prepare` is ours.
    """

    variant: Variant
    cores: Count
    round: CountFromZero
    seconds: Positive
    tokens: Count


@part
class StreamRun:
    """Reading of training sequences for a while, counted once the loader was at speed.

    `litespark` marks the documents of each sequence; `litdata` is LitData's StreamingDataset with TokensLoader. Without
    workers it reads in process.
    """

    reader: Reader
    workers: CountFromZero
    shuffle: bool
    round: CountFromZero
    tokens: Count
    seconds: Positive
    first_batch_seconds: NotNegative

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@record
class DataRecord(Record):
    """One measurement on one machine, with one tokenizer for all variants.

    `text_bytes` are in UTF-8. `seq_len`, `micro_batch_size` and `pinned` (batches copied to page-locked memory) are of
    the streams, beside which that version of `litdata` streams.
    """

    source: str
    documents: Count
    text_bytes: Count
    vocab_size: int
    cores: Count
    rounds: Count
    seq_len: Count
    micro_batch_size: Count
    pinned: bool
    litdata: str
    preparation: list[PreparationRun] = field(default_factory=list)
    streaming: list[StreamRun] = field(default_factory=list)
    schema: Literal["litespark.bench.data/3"] = field(default="litespark.bench.data/3", kw_only=True)

    def prepared(self, variant: str, cores: int) -> list[PreparationRun]:
        runs = [run for run in self.preparation if (run.variant, run.cores) == (variant, cores)]
        return sorted(runs, key=lambda run: run.round)

    def streamed(self, reader: str, workers: int, *, shuffle: bool = True) -> list[StreamRun]:
        runs = [run for run in self.streaming if (run.reader, run.workers, run.shuffle) == (reader, workers, shuffle)]
        return sorted(runs, key=lambda run: run.round)

    def shares(self, cores: int) -> list[float]:
        """By round: time of the bare tokenizer over that of the preparation of the same text, 1 is the most."""
        pairs = zip(self.prepared(ENCODE, cores), self.prepared(PREPARE, cores), strict=False)
        return [bare.seconds / ours.seconds for bare, ours in pairs]

    def stream_ratios(self, workers: int, *, shuffle: bool = True) -> list[float]:
        """By round: tokens per second of our reader over LitData's."""
        ours, theirs = (self.streamed(reader, workers, shuffle=shuffle) for reader in (OURS, LITDATA))
        return [one.tokens_per_second / other.tokens_per_second for one, other in zip(ours, theirs, strict=False)]

    @property
    def complete(self) -> bool:
        rounds = list(range(self.rounds))
        counted = [
            [run.round for run in self.prepared(variant, cores)]
            for cores in (1, self.cores)
            for variant in (ENCODE, PREPARE)
        ]
        counted += [
            [run.round for run in self.streamed(reader, workers)] for workers in (0, 1, 2) for reader in (OURS, LITDATA)
        ]
        return all(numbers == rounds for numbers in counted)

    @model_validator(mode="after")
    def _counts_the_same_tokens(self) -> Self:
        encoded = {run.tokens - (self.documents if run.variant == PREPARE else 0) for run in self.preparation}
        if len(encoded) > 1:
            raise ValueError(
                f"preparation: got {sorted(encoded)} tokens without EOS, expected one number: preparation writes what "
                "the bare tokenizer yields, and one EOS a document"
            )
        return self
