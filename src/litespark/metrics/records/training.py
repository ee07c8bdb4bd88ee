"""The record of variants that are trained with every seed, over equal tokens or to a target.

It holds the validations of every run. What follows from them (tokens, seconds, bits per byte and joules at the end,
whether the target was reached, differences, ratios) is computed when it is read, in `litespark.reports.training_rows`:
so no figure can disagree with the curve.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from litespark.metrics.records.base import Count, CountFromZero, NotNegative, Positive, part, record
from litespark.metrics.records.origin import DeviceState, Record
from litespark.run.record_fp8 import Fp8Record


@part
class Validation:
    """One validation: input tokens, train seconds and train joules up to it; None: the joules were not measured."""

    step: Count
    tokens: Count
    seconds: Positive
    bits_per_byte: Positive
    joules: NotNegative | None = None


@part
class TrainedRun:
    """One training run, in a process of its own.

    Seconds and joules are those of training steps, without start, validation and checkpoints; `all_in_joules` are of
    everything.

    Attributes:
        seed: of weights and order of the data; position: among the runs of this seed, from 0.
        precision: in which it computed, "fp8".
        curve: every validation, in order; the last is at the end of the run.
        joules_reason: why there are no joules; joules_method: how they were read.
        skipped_steps: that were not finite.
        fp8: what became of the layers, where the run was in fp8.
        processes: how many it took: more than one where it was stopped and continued.
        before, after: the state of the device around the run (the last process's); None without NVML.
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
        """The last validation."""
        return self.curve[-1]

    @property
    def best_bits_per_byte(self) -> float:
        """The lowest of all validations."""
        return min(point.bits_per_byte for point in self.curve)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        at = f"seed {self.seed}"
        for earlier, later in itertools.pairwise(self.curve):
            if not (earlier.step < later.step and earlier.tokens < later.tokens and earlier.seconds <= later.seconds):
                raise ValueError(
                    f"{at}: curve: got step {later.step} after step {earlier.step}, expected steps, tokens and seconds "
                    "to grow"
                )
        joules = self.end.joules
        if (joules is None) == (self.joules_reason is None):
            raise ValueError(f"{at}: joules: expected either joules or a reason why there are none")
        if joules is not None and self.all_in_joules is not None and joules > self.all_in_joules * (1 + 1e-9):
            raise ValueError(f"{at}: joules: got {joules}, expected at most all_in_joules = {self.all_in_joules}")
        if (self.fp8 is None) == (self.precision == "fp8"):
            raise ValueError(
                f"{at}: fp8: expected what became of the layers where precision is fp8, and only there; it is "
                f"{self.precision}"
            )
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
    """The corpus as one variant prepared it.

    Attributes:
        manifest_hash: of the prepared data; validation_hash: of its validation tokens.
        train_documents, train_tokens: that are left.
        prepare_seconds: what preparing took, selection included; None where it was found prepared.
    """

    manifest_hash: str
    validation_hash: str
    train_documents: Count
    train_tokens: Count
    prepare_seconds: Positive | None
    dropped: list[Dropped] = field(default_factory=list)


@part
class TrainedVariant:
    """One way to train: the overrides that make it from the benchmark's config, and its runs.

    Attributes:
        prepared: its own preparation of the corpus, where data selection is what varies.
    """

    name: str
    settings: list[str]
    prepared: PreparedCorpus | None = None
    runs: list[TrainedRun] = field(default_factory=list)
    failures: list[RunFailure] = field(default_factory=list)

    def run(self, seed: int) -> TrainedRun | None:
        """The run of a seed."""
        return next((run for run in self.runs if run.seed == seed), None)


@part
class Kind:
    """What there is of one kind of document: clean, a copy, a kind of junk."""

    kind: str
    documents: Count
    bytes: Count


@part
class Corpus:
    """Clean text with junk and copies planted in it, for variants that differ in data selection.

    Attributes:
        source: what `data.source` named; seed: of what is planted; sha256: of all documents.
        kinds: of the training text; validation_documents, validation_bytes: of the clean text that is held out.
    """

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

    Attributes:
        name, manifest_hash: of the prepared data, the first variant's where each has its own.
        validation_sequences: on which the bits per byte are taken; None: all that there are.
        validate_every: steps between two validations, and so how finely the cost of a quality can be told.
        budget_tokens: after which a run ends that does not end before; exact to a step where sequences are padded.
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
        """Input tokens of an optimizer step."""
        return self.global_batch_size * self.seq_len


@record
class TrainingRecord(Record):
    """One benchmark on one device.

    Attributes:
        target_bits_per_byte: at which a run ends; None: all runs spend the budget, so that losses compare.
        bound: share by which the bits per byte of a variant may be above those of the first; None: not judged.
        variants: the first is what the others are held against.
        corpus: that the variants prepare, where data selection is what varies.
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
        """Whether every variant has a run of every seed."""
        return next(self.missing(), None) is None

    def asked(self) -> tuple[object, ...]:
        """What was to be measured."""
        variants = [(each.name, each.settings, each.prepared and each.prepared.manifest_hash) for each in self.variants]
        return (variants, self.model, self.stream, self.precision, self.seeds, self.target_bits_per_byte, self.bound,
                self.corpus)  # fmt: skip

    def missing(self) -> Iterator[tuple[TrainedVariant, int, int]]:
        """(variant, seed, position) of every run that is not there, in the order in which they take turns.

        Every second seed has the variants in reverse, so that a machine that slows down favours none.
        """
        for index, seed in enumerate(self.seeds):
            turns = self.variants if index % 2 == 0 else self.variants[::-1]
            for position, variant in enumerate(turns):
                if variant.run(seed) is None:
                    yield variant, seed, position

    @model_validator(mode="after")
    def _compares_like_with_like(self) -> Self:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"variants: got the names {names}, expected each once")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: got {self.seeds}, expected each once")
        tokens = None
        for variant in self.variants:
            at = f"variants.{variant.name}"
            seeds = [run.seed for run in variant.runs]
            if len(set(seeds)) < len(seeds) or not set(seeds) <= set(self.seeds):
                raise ValueError(f"{at}.runs: got the seeds {seeds}, expected some of {self.seeds}, each once")
            for run in variant.runs:
                if complaint := self._ends_elsewhere(run, tokens):
                    raise ValueError(f"{at}.runs: seed {run.seed}: {complaint}")
                tokens = run.end.tokens
        self._check_corpus()
        return self

    def _ends_elsewhere(self, run: TrainedRun, tokens: int | None) -> str | None:
        """What is wrong with the place at which a run ended; `tokens` are those of a run before it."""
        target, budget, end = self.target_bits_per_byte, self.stream.budget_tokens, run.end
        if target is not None:
            early = next((point for point in run.curve[:-1] if point.bits_per_byte <= target), None)
            if early is not None:
                return f"curve: got {early.bits_per_byte} before the end, expected the run to end at or below {target}"
            if end.bits_per_byte <= target:
                return None
        if abs(end.tokens - budget) >= self.stream.tokens_per_step:
            return f"tokens: got {end.tokens}, expected the {budget} of the budget"
        if target is None and tokens not in (None, end.tokens):
            return f"tokens: got {end.tokens}, expected {tokens} as before: losses are compared at equal tokens"
        return None

    def _check_corpus(self) -> None:
        """Every variant prepares the same corpus, the first keeps all of it, and what others drop is counted."""
        if {variant.prepared is None for variant in self.variants} != {self.corpus is None}:
            raise ValueError("prepared: expected it of every variant where there is a corpus, and of none otherwise")
        if self.corpus is None:
            return
        documents = {kind.kind: kind.documents for kind in self.corpus.kinds}
        prepared = {variant.name: variant.prepared for variant in self.variants if variant.prepared is not None}
        if len({each.validation_hash for each in prepared.values()}) > 1:
            raise ValueError("validation_hash: got several, expected the same text for every variant")
        if prepared[self.variants[0].name].dropped:
            raise ValueError(f"variants.{self.variants[0].name}.dropped: expected nothing: it trains on everything")
        for name, each in prepared.items():
            gone: dict[str, int] = {}
            for entry in each.dropped:
                gone[entry.kind] = gone.get(entry.kind, 0) + entry.documents
            for kind, dropped in gone.items():
                if dropped > documents.get(kind, 0):
                    raise ValueError(
                        f"variants.{name}.dropped: got {dropped} of {kind}, expected at most {documents.get(kind, 0)}"
                    )
            left = sum(documents.values()) - sum(gone.values())
            if each.train_documents != left:
                raise ValueError(f"variants.{name}.train_documents: got {each.train_documents}, expected {left}")
