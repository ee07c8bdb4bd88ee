"""The record of `litespark bench parity`: what variants learn from equal tokens, beside what they took.

Whether a variant learns as well as the first one is computed from this (`litespark.metrics.parity_table`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from litespark.metrics.records.bench import DeviceState, Provenance
from litespark.metrics.records.run_fp8 import Fp8Record
from litespark.metrics.records.sealing import SealedRecord
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.training_runs import (
    CurvePoint,
    RunFailure,
    TrainedModel,
    TrainedStream,
    curve_contradictions,
    missing_runs,
    require_completeness,
    require_seeds_of_runs,
    require_variants_and_seeds,
)

SCHEMA = "litespark.bench.parity/1"


@dataclass
class ParityRun:
    """One training run over the whole budget, in a process of its own.

    Seconds and joules are those of training steps, without start, validation and checkpoints.

    Attributes:
        seed: of weights and order of the data; position: among the runs of this seed, from 0.
        precision: in which it computed, "fp8".
        tokens, train_seconds, bits_per_byte, joules: at the last validation, which is after the last step.
        joules_reason: why there are no joules; joules_method: how they were read.
        skipped_steps: that were not finite.
        fp8: what became of the layers, where the run was in fp8.
        processes: how many it took: more than one where it was stopped and continued.
        curve: every validation, in order.
        before, after: the state of the device around the run (the last process's); None without NVML.
    """

    seed: int
    position: int
    precision: str
    tokens: int
    train_seconds: float
    bits_per_byte: float
    joules: float | None = None
    joules_method: str | None = None
    joules_reason: str | None = None
    skipped_steps: int = 0
    fp8: Fp8Record | None = None
    processes: int = 1
    curve: list[CurvePoint] = field(default_factory=list)
    before: DeviceState | None = None
    after: DeviceState | None = None


@dataclass
class ParityVariant:
    """One way to train: the overrides that make it from the benchmark's config, and its runs."""

    name: str
    settings: list[str]
    runs: list[ParityRun] = field(default_factory=list)
    failures: list[RunFailure] = field(default_factory=list)

    def run(self, seed: int) -> ParityRun | None:
        """The run of a seed."""
        return next((each for each in self.runs if each.seed == seed), None)


@dataclass
class ParityRecord(SealedRecord):
    """One benchmark on one device.

    Attributes:
        bound: share by which the bits per byte of a variant may be above those of the first.
        variants: the first is what the others are held against.
        complete: every variant ran every seed.
    """

    schema = SCHEMA

    provenance: Provenance
    bound: float
    model: TrainedModel
    stream: TrainedStream
    precision: str
    seeds: list[int]
    variants: list[ParityVariant] = field(default_factory=list)
    complete: bool = False

    def missing(self) -> Iterator[tuple[ParityVariant, int, int]]:
        """(variant, seed, position) of every run that is not there, in the order in which they take turns."""
        return missing_runs(self.variants, self.seeds)

    def check(self) -> None:
        """The rules that types do not express.

        Raises:
            RecordError: one is broken; the message names the variant and the seed.
        """
        require_variants_and_seeds(self.variants, self.seeds, least=2)
        if not 0 < self.bound < 1:
            raise RecordError(f"bound: got {self.bound}, expected a share between 0 and 1")
        require_completeness(self.complete, self.variants, self.seeds)
        tokens: int | None = None
        for variant in self.variants:
            require_seeds_of_runs(variant.name, [each.seed for each in variant.runs], self.seeds)
            for run in variant.runs:
                if found := next(_contradictions(run, tokens), None):
                    raise RecordError(f"variants.{variant.name}.runs[seed {run.seed}].{found}")
                tokens = run.tokens


def _contradictions(run: ParityRun, tokens: int | None) -> Iterator[str]:
    if wrong := next(curve_contradictions(run.curve), None):
        yield wrong
        return
    last = run.curve[-1]
    same = {
        "tokens": (run.tokens, last.tokens),
        "train_seconds": (run.train_seconds, last.seconds),
        "bits_per_byte": (run.bits_per_byte, last.bits_per_byte),
        "joules": (run.joules, last.joules),
    }
    for name, (got, expected) in same.items():
        if got != expected:
            yield f"{name}: got {got}, expected {expected} as the curve has it"
    if tokens is not None and run.tokens != tokens:
        yield f"tokens: got {run.tokens}, expected {tokens} as in the runs before: losses are compared at equal tokens"
    if (run.joules is None) == (run.joules_reason is None):
        yield "joules: expected either joules or a reason why there are none"
    if (run.fp8 is None) == (run.precision == "fp8"):
        yield f"fp8: expected what became of the layers where precision is fp8, and only there; it is {run.precision}"
