"""The record of `litespark bench to-loss`: what each run took until the validation bits per byte reached the target.

A run that did not get there says how far it got and what that took; nothing is carried on beyond what was trained.
Medians and ratios are computed from this (`litespark.metrics.to_loss_table`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from litespark.metrics.records.bench import DeviceState, Provenance
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

SCHEMA = "litespark.bench.to_loss/1"


@dataclass
class ToLossRun:
    """One training run, in a process of its own.

    Seconds and joules are those of training steps, without start, validation and checkpoints; those of all-in joules
    are of everything.

    Attributes:
        seed: of weights and order of the data; position: among the runs of this seed, from 0.
        reached: whether the last validation is at or below the target; the first that is ends the run.
        step, tokens, train_seconds, joules: up to the last validation, so to the target where it was reached.
        joules_reason: why there are no joules; joules_method: how they were read.
        best_bits_per_byte, final_bits_per_byte: of all validations, and of the last.
        processes: how many it took: more than one where it was stopped and continued.
        curve: every validation, in order.
        before, after: the state of the device around the run (the last process's); None without NVML.
    """

    seed: int
    position: int
    reached: bool
    step: int
    tokens: int
    train_seconds: float
    best_bits_per_byte: float
    final_bits_per_byte: float
    joules: float | None = None
    all_in_joules: float | None = None
    joules_method: str | None = None
    joules_reason: str | None = None
    processes: int = 1
    curve: list[CurvePoint] = field(default_factory=list)
    before: DeviceState | None = None
    after: DeviceState | None = None


@dataclass
class ToLossVariant:
    """One way to train: the overrides that make it from the benchmark's config, and its runs."""

    name: str
    settings: list[str]
    runs: list[ToLossRun] = field(default_factory=list)
    failures: list[RunFailure] = field(default_factory=list)

    def run(self, seed: int) -> ToLossRun | None:
        """The run of a seed."""
        return next((each for each in self.runs if each.seed == seed), None)


@dataclass
class ToLossRecord(SealedRecord):
    """One benchmark on one device. The first variant is the reference; `complete`: every variant ran every seed."""

    schema = SCHEMA

    provenance: Provenance
    target_bits_per_byte: float
    model: TrainedModel
    stream: TrainedStream
    precision: str
    seeds: list[int]
    variants: list[ToLossVariant] = field(default_factory=list)
    complete: bool = False

    def missing(self) -> Iterator[tuple[ToLossVariant, int, int]]:
        """(variant, seed, position) of every run that is not there, in the order in which they take turns."""
        return missing_runs(self.variants, self.seeds)

    def check(self) -> None:
        """The rules that types do not express.

        Raises:
            RecordError: one is broken; the message names the variant and the seed.
        """
        require_variants_and_seeds(self.variants, self.seeds, least=1)
        if not self.target_bits_per_byte > 0:
            raise RecordError(f"target_bits_per_byte: got {self.target_bits_per_byte}, expected a number above 0")
        require_completeness(self.complete, self.variants, self.seeds)
        for variant in self.variants:
            require_seeds_of_runs(variant.name, [each.seed for each in variant.runs], self.seeds)
            for run in variant.runs:
                if found := next(_contradictions(run, self.target_bits_per_byte), None):
                    raise RecordError(f"variants.{variant.name}.runs[seed {run.seed}].{found}")


def _contradictions(run: ToLossRun, target: float) -> Iterator[str]:
    curve = run.curve
    if wrong := next(curve_contradictions(curve), None):
        yield wrong
        return
    *before, last = curve
    for each in before:
        if each.bits_per_byte <= target:
            yield f"curve: got {each.bits_per_byte} before the end, expected the run to end at or below {target}"
    if run.reached != (last.bits_per_byte <= target):
        yield f"reached: got {run.reached} with {last.bits_per_byte} bits per byte at the end and a target of {target}"
    same = {
        "step": (run.step, last.step),
        "tokens": (run.tokens, last.tokens),
        "train_seconds": (run.train_seconds, last.seconds),
        "final_bits_per_byte": (run.final_bits_per_byte, last.bits_per_byte),
        "best_bits_per_byte": (run.best_bits_per_byte, min(each.bits_per_byte for each in curve)),
        "joules": (run.joules, last.joules),
    }
    for name, (got, expected) in same.items():
        if got != expected:
            yield f"{name}: got {got}, expected {expected} as the curve has it"
    if (run.joules is None) == (run.joules_reason is None):
        yield "joules: expected either joules or a reason why there are none"
    if run.joules is not None and run.all_in_joules is not None and run.joules > run.all_in_joules * (1 + 1e-9):
        yield f"joules: got {run.joules}, expected at most all_in_joules = {run.all_in_joules}"
