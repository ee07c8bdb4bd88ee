"""The record of `litespark bench selection`: the same number of tokens trained with and without selection.

Both variants are validated on the same clean text. Differences, and what it took to equal quality, are computed from
this (`litespark.metrics.selection_table`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from litespark.metrics.records.bench import Provenance
from litespark.metrics.records.sealing import SealedRecord
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.training_runs import (
    CurvePoint,
    RunFailure,
    curve_contradictions,
    missing_runs,
    require_completeness,
    require_seeds_of_runs,
    require_variants_and_seeds,
    spends,
)

SCHEMA = "litespark.bench.selection/1"


@dataclass
class SelectionKind:
    """What there is of one kind of document: clean, a copy, a kind of junk."""

    kind: str
    documents: int
    bytes: int


@dataclass
class SelectionCorpus:
    """The text with what is planted in it.

    Attributes:
        source: what `data.source` named; seed: of what is planted; sha256: of all documents.
        kinds: of the training text; validation_documents, validation_bytes: of the clean text that is held out.
    """

    source: str
    seed: int
    sha256: str
    kinds: list[SelectionKind]
    validation_documents: int
    validation_bytes: int


@dataclass
class SelectionLeftOut:
    """What one rule left out of one kind; tokens None where they were not counted."""

    rule: str
    kind: str
    documents: int
    bytes: int
    tokens: int | None


@dataclass
class SelectionRun:
    """One training run, in a process of its own; seconds and joules are those of training steps.

    Attributes:
        seed: of weights and order of the data; position: among the runs of this seed, from 0.
        tokens: trained on; the same in every run.
        joules_reason: why there are no joules; joules_method: how they were read.
        processes: how many it took: more than one where it was stopped and continued.
        curve: every validation, in order; the last is at the end.
    """

    seed: int
    position: int
    tokens: int
    train_seconds: float
    bits_per_byte: float
    joules: float | None = None
    joules_method: str | None = None
    joules_reason: str | None = None
    processes: int = 1
    curve: list[CurvePoint] = field(default_factory=list)


@dataclass
class SelectionVariant:
    """One way to prepare the corpus, and its runs.

    Attributes:
        settings: the overrides that make it from the benchmark's config.
        manifest_hash: of the prepared data; validation_hash: of its validation chunks.
        train_documents, train_tokens: that are left.
        prepare_seconds: what preparing took, selection included; None where it was found prepared.
    """

    name: str
    settings: list[str]
    manifest_hash: str
    validation_hash: str
    train_documents: int
    train_tokens: int
    prepare_seconds: float | None
    left_out: list[SelectionLeftOut] = field(default_factory=list)
    runs: list[SelectionRun] = field(default_factory=list)
    failures: list[RunFailure] = field(default_factory=list)

    def run(self, seed: int) -> SelectionRun | None:
        """The run of a seed."""
        return next((each for each in self.runs if each.seed == seed), None)


@dataclass
class SelectionModel:
    """The model that is trained, and how: rows of S tokens, so many a step, so many tokens in all."""

    name: str
    parameters: int
    sequence_length: int
    batch_rows: int
    validate_every: int
    budget_tokens: int


@dataclass
class SelectionRecord(SealedRecord):
    """One benchmark on one device. The first variant trains on everything; `complete`: all runs are there."""

    schema = SCHEMA

    provenance: Provenance
    model: SelectionModel
    precision: str
    corpus: SelectionCorpus
    tokenizer_hash: str
    seeds: list[int]
    variants: list[SelectionVariant] = field(default_factory=list)
    complete: bool = False

    def missing(self) -> Iterator[tuple[SelectionVariant, int, int]]:
        """(variant, seed, position) of every run that is not there, in the order in which they take turns."""
        return missing_runs(self.variants, self.seeds)

    def check(self) -> None:
        """The rules that types do not express.

        Raises:
            RecordError: one is broken; the message names the variant and the seed.
        """
        require_variants_and_seeds(self.variants, self.seeds, least=2)
        if len({each.validation_hash for each in self.variants}) > 1:
            raise RecordError("validation_hash: got several, expected the same text for every variant")
        if self.variants[0].left_out:
            raise RecordError(
                f"variants.{self.variants[0].name}.left_out: got rules, expected none: it trains on everything"
            )
        require_completeness(self.complete, self.variants, self.seeds)
        kinds = {each.kind: each for each in self.corpus.kinds}
        for variant in self.variants:
            self._check_variant(variant, kinds)

    def _check_variant(self, variant: SelectionVariant, kinds: dict[str, SelectionKind]) -> None:
        where = f"variants.{variant.name}"
        for kind, planted in kinds.items():
            gone = sum(each.documents for each in variant.left_out if each.kind == kind)
            if gone > planted.documents:
                raise RecordError(f"{where}.left_out: got {gone} of {kind}, expected at most {planted.documents}")
        if unknown := {each.kind for each in variant.left_out} - set(kinds):
            raise RecordError(f"{where}.left_out: got {', '.join(sorted(unknown))}, expected kinds of the corpus")
        left = sum(each.documents for each in self.corpus.kinds) - sum(each.documents for each in variant.left_out)
        if variant.train_documents != left:
            raise RecordError(f"{where}.train_documents: got {variant.train_documents}, expected {left}: all that stay")
        require_seeds_of_runs(variant.name, [each.seed for each in variant.runs], self.seeds)
        for run in variant.runs:
            if found := next(_contradictions(run, self.model), None):
                raise RecordError(f"{where}.runs[seed {run.seed}].{found}")


def _contradictions(run: SelectionRun, model: SelectionModel) -> Iterator[str]:
    if wrong := next(curve_contradictions(run.curve), None):
        yield wrong
        return
    if not spends(run.tokens, model.budget_tokens, model.batch_rows * model.sequence_length):
        yield f"tokens: got {run.tokens}, expected {model.budget_tokens}"
    last = run.curve[-1]
    same = {
        "curve.tokens": (last.tokens, run.tokens),
        "train_seconds": (run.train_seconds, last.seconds),
        "bits_per_byte": (run.bits_per_byte, last.bits_per_byte),
        "joules": (run.joules, last.joules),
    }
    for name, (got, expected) in same.items():
        if got != expected:
            yield f"{name}: got {got}, expected {expected}"
    if (run.joules is None) == (run.joules_reason is None):
        yield "joules: expected either joules or a reason why there are none"
