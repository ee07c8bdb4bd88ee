"""The record of variants that are trained with every seed, over equal tokens or to a target.

It holds the validations of every run; what follows from them is computed when it is read
(`litespark.reports.training`), so no figure can disagree with the curve.
"""

import itertools
from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from litespark.metrics.records.base import Count, CountFromZero, NotNegative, Positive, part, record
from litespark.metrics.records.origin import DeviceState, Record, check_joules
from litespark.run.record_fp8 import Fp8Record


@part
class Validation:
    """One validation: input tokens, seconds and joules of training up to it."""

    step: Count
    tokens: Count
    seconds: Positive
    bits_per_byte: Positive
    joules: NotNegative | None = None


@part
class TrainedRun:
    """One training run, in processes of its own: more than one where it was stopped and continued.

    `position` is its place among the runs of its seed; `before` and `after` are the device's state around it.
    """

    seed: CountFromZero
    position: CountFromZero
    precision: str
    curve: Annotated[list[Validation], Field(min_length=1)]
    all_in_joules: Positive | None = None
    joules_method: str | None = None
    joules_reason: str | None = None
    skipped_steps: CountFromZero = 0
    fp8: Fp8Record | None = None
    processes: Count = 1
    before: DeviceState | None = None
    after: DeviceState | None = None

    @property
    def end(self) -> Validation:
        return self.curve[-1]

    @property
    def best_bits_per_byte(self) -> float:
        return min(point.bits_per_byte for point in self.curve)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        at, joules = f"seed {self.seed}: ", self.end.joules
        for one, next_ in itertools.pairwise(self.curve):
            if not (one.step < next_.step and one.tokens < next_.tokens and one.seconds <= next_.seconds):
                raise ValueError(f"{at}curve: got {next_} after {one}, expected steps, tokens and seconds to grow")
        check_joules(joules, self.joules_reason, at)
        if joules is not None and self.all_in_joules is not None and joules > self.all_in_joules * (1 + 1e-9):
            raise ValueError(f"{at}joules: got {joules}, expected at most all_in_joules = {self.all_in_joules}")
        return self


@part
class RunFailure:
    """A run that ended with an error."""

    seed: int
    error: str


@part
class Dropped:
    """What one rule of selection dropped of one kind of document; None: its tokens were not counted."""

    rule: str
    kind: str
    documents: CountFromZero
    bytes: CountFromZero
    tokens: CountFromZero | None


@part
class PreparedCorpus:
    """The corpus as one variant prepared it; `prepare_seconds` is None where it was found prepared."""

    manifest_hash: str
    validation_hash: str
    train_documents: Count
    train_tokens: Count
    prepare_seconds: Positive | None
    dropped: list[Dropped] = field(default_factory=list)


@part
class TrainedVariant:
    """One way to train: the overrides that make it from the benchmark's config, its own corpus if any, its runs."""

    name: str
    settings: list[str]
    prepared: PreparedCorpus | None = None
    runs: list[TrainedRun] = field(default_factory=list)
    failures: list[RunFailure] = field(default_factory=list)

    def run(self, seed: int) -> TrainedRun | None:
        return next((run for run in self.runs if run.seed == seed), None)


@part
class Kind:
    """What there is of one kind of document: clean, a copy, a kind of junk."""

    kind: str
    documents: Count
    bytes: Count


@part
class Corpus:
    """Clean text with junk and copies planted in it by `seed`; the validation text is clean."""

    source: str
    seed: int
    sha256: str
    kinds: list[Kind]
    validation_documents: Count
    validation_bytes: Count


@part
class TrainedModel:
    """The model that all variants train."""

    name: str
    parameters: Count


@part
class Stream:
    """What all runs read and when they look: sequences in an order that the seed decides.

    `validate_every` is in steps, and so how finely the cost of a quality can be told. A run ends after
    `budget_tokens`, exact to a step where sequences are padded.
    """

    name: str
    manifest_hash: str
    seq_len: Count
    global_batch_size: Count
    validation_sequences: Count | None
    validate_every: Count
    budget_tokens: Count

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch_size * self.seq_len


@record
class TrainingRecord(Record):
    """One benchmark on one device; the first variant is what the others are held against.

    Runs end at `target_bits_per_byte`; without it they all spend the budget, so that losses compare. `bound` is the
    share by which the bits per byte of a variant may be above those of the first. `corpus` is what the variants
    prepare, where data selection is what varies.
    """

    model: TrainedModel
    stream: Stream
    precision: str
    seeds: Annotated[list[CountFromZero], Field(min_length=1)]
    variants: Annotated[list[TrainedVariant], Field(min_length=1)]
    target_bits_per_byte: Positive | None = None
    bound: Annotated[float, Field(gt=0, lt=1)] | None = None
    corpus: Corpus | None = None
    schema: Literal["litespark.bench.training/2"] = field(default="litespark.bench.training/2", kw_only=True)

    @property
    def complete(self) -> bool:
        return next(self.missing(), None) is None

    def asked(self) -> tuple[object, ...]:
        variants = [
            (variant.name, variant.settings, variant.prepared and variant.prepared.manifest_hash)
            for variant in self.variants
        ]
        return (variants, self.model, self.stream, self.precision, self.seeds, self.target_bits_per_byte, self.bound,
                self.corpus)  # fmt: skip

    def missing(self) -> Iterator[tuple[TrainedVariant, int, int]]:
        """(variant, seed, position) of every run that is not there; every second seed has the variants in reverse."""
        for index, seed in enumerate(self.seeds):
            turns = self.variants if index % 2 == 0 else self.variants[::-1]
            for position, variant in enumerate(turns):
                if variant.run(seed) is None:
                    yield variant, seed, position

    @model_validator(mode="after")
    def _compares_like_with_like(self) -> Self:
        tokens = next((run.end.tokens for variant in self.variants for run in variant.runs), 0)
        for variant in self.variants:
            for run in variant.runs:
                if complaint := self._ends_elsewhere(run, tokens):
                    raise ValueError(f"variants.{variant.name}.runs: seed {run.seed}: {complaint}")
        if len({variant.prepared and variant.prepared.validation_hash for variant in self.variants}) > 1:
            raise ValueError("variants.validation_hash: expected the same text for every variant")
        return self

    def _ends_elsewhere(self, run: TrainedRun, tokens: int) -> str | None:
        """What is wrong with the place at which a run ended; `tokens` are those of the first run."""
        target, budget, end = self.target_bits_per_byte, self.stream.budget_tokens, run.end
        if target is not None:
            early = next((point.bits_per_byte for point in run.curve[:-1] if point.bits_per_byte <= target), None)
            if early is not None:
                return f"curve: got {early} before the end, expected the run to end at or below {target}"
            if end.bits_per_byte <= target:
                return None
        if abs(end.tokens - budget) >= self.stream.tokens_per_step:
            return f"tokens: got {end.tokens}, expected the {budget} of the budget"
        if target is None and tokens != end.tokens:
            return f"tokens: got {end.tokens}, expected {tokens} as before: losses are compared at equal tokens"
        return None
