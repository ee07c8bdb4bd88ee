"""`litespark bench parity` from start to end: every variant is trained on the same tokens, from the same weights.

Each run is a process of `train.py`; they take turns, and the same command continues what was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from litespark.benchmarks.device import device_for
from litespark.benchmarks.parity.reading import read_run
from litespark.benchmarks.provenance import provenance
from litespark.benchmarks.record_path import continued, record_path
from litespark.benchmarks.training_runs.launch import Ended, Training, train
from litespark.benchmarks.training_runs.settings import RunSettings, refuse_a_variant
from litespark.benchmarks.training_runs.stream import model_and_stream
from litespark.benchmarks.training_runs.turns import Turns, device_state_of
from litespark.benchmarks.training_runs.variants import Variant, check
from litespark.experiment.config import ConfigError, Parts
from litespark.experiment.precision import precision_of
from litespark.metrics.records.parity import ParityRecord, ParityRun, ParityVariant
from litespark.ranges import InnerShare

WHAT = "bench-parity"
# what the others are held against comes first
DEFAULT = (
    Variant("bf16", ("precision=bf16",)),
    Variant("fp8", ("precision=fp8", "precision.fp8.recipe=delayed")),
    Variant("fp8_tensorwise", ("precision=fp8", "precision.fp8.recipe=tensorwise")),
    Variant("fp8_rowwise", ("precision=fp8", "precision.fp8.recipe=rowwise")),
)

Compose = Callable[[Sequence[str]], Parts]


@dataclass(frozen=True, kw_only=True)
class ParitySettings(RunSettings):
    """How it is run.

    Attributes:
        bound: share by which the bits per byte of a variant may be above those of the first.
    """

    bound: InnerShare = 0.005


def bench_parity(
    compose: Compose,
    overrides: Sequence[str],
    variants: Sequence[Variant],
    settings: ParitySettings,
    *,
    command: Sequence[str],
    script: Path,
    output: Path,
    say: Callable[[str], None],
    launch: Callable[[Training], Ended] = train,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[ParityRecord, Path]:
    """Train, and write the record after every run.

    Args:
        compose: makes a config of overrides.
        overrides: of the config, as the user gave them.
        variants: at least two; the first is what the others are held against.
        settings: how it is run.
        command: the words that get it again, for the record.
        script: `train.py`.
        output: folder of records; the file is DEVICE/DATE_bench-parity_MODEL_PRECISION.json in it.
        say: is told what is being done.
        launch, clock: replaced in tests.

    Raises:
        ValueError: the config cannot be trained so, or a variant would see another stream.
        OSError: the record cannot be written.
    """
    began = clock()
    refuse_a_variant(overrides)
    parts = compose(overrides)
    if parts.budget.target_bpb is not None:
        raise ConfigError(
            f"budget.target_bpb: got {parts.budget.target_bpb}, expected null: losses are compared at equal tokens; "
            "for the cost to a target use litespark bench to-loss"
        )
    if len(variants) < 2:
        raise ConfigError(
            f"--variant: got {len(variants)}, expected at least two: the first is what others are held to"
        )
    made = [(each, compose([*overrides, *each.settings])) for each in variants]
    check(parts, made)
    for _, theirs in made:  # what cannot run here is known before minutes are spent
        precision_of(theirs, device_for(theirs.trainer.accelerator))
    new = begin(parts, overrides, made, settings, command)
    origin = new.provenance
    path = record_path(output, origin.environment, WHAT, new.model.name, new.precision, origin.time)
    record, path = continued(new, path, read=ParityRecord.read, unfinished=lambda each: _continues(each, new))
    if record is not new:
        say(f"{path}: continued, {sum(len(each.runs) for each in record.variants)} runs are there")
    record.write(path)  # what cannot be written is known before minutes are spent
    logs = parts.logs.absolute() / "parity"

    def training(variant: ParityVariant, seed: int, seconds: float | None) -> Training:
        words = [*overrides, *variant.settings]
        return Training.of(record.provenance, variant.name, seed, words, script=script, logs=logs, seconds=seconds)

    def read(variant: ParityVariant, folder: Path, seed: int, position: int) -> ParityRun:
        return read_run(folder, seed=seed, position=position, stream=record.stream)

    Turns(
        record,
        training,
        read,
        lambda run: f"{run.bits_per_byte:.4f} bits/byte after {run.tokens:,} tokens and {run.train_seconds:.1f} s",
        save=lambda: record.write(path),
        say=say,
        launch=launch,
        clock=clock,
        deadline=None if settings.minutes is None else began + 60 * settings.minutes,
        state=lambda: device_state_of(parts),
    ).take()
    return record, path


def begin(
    parts: Parts,
    overrides: Sequence[str],
    variants: Sequence[tuple[Variant, Parts]],
    settings: ParitySettings,
    command: Sequence[str],
) -> ParityRecord:
    """The record without runs; prepares the text where that was not done before.

    Raises:
        ValueError: the device, the text or its vocabulary do not fit.
    """
    device = device_for(parts.trainer.accelerator)
    first = precision_of(variants[0][1], device)
    model, stream = model_and_stream(parts)
    return ParityRecord(
        provenance=provenance(parts, overrides, command, device, first),
        bound=settings.bound,
        model=model,
        stream=stream,
        precision=first,
        seeds=list(settings.seeds),
        variants=[ParityVariant(each.name, list(each.settings)) for each, _ in variants],
    )


def _continues(found: ParityRecord, new: ParityRecord) -> bool:
    """Whether `found` lacks runs, and those of `new` may stand beside the ones that it has."""

    def identity(record: ParityRecord) -> tuple[object, ...]:
        origin = record.provenance
        variants = [(each.name, each.settings) for each in record.variants]
        return (origin.source_hash, origin.config_hash, origin.environment, record.bound, record.model, record.stream,
                record.precision, record.seeds, variants)  # fmt: skip

    return not found.complete and identity(found) == identity(new)
