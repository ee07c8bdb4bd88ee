"""`litespark bench to-loss` from start to end: runs of variants that take turns, saved one by one.

Every variant trains once with each seed, in a process of its own, every second seed in reversed order. The same command
continues what was stopped: runs that are in the record stay, one that was under way goes on from where it was saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from litespark.benchmarks.device import device_for
from litespark.benchmarks.provenance import provenance
from litespark.benchmarks.record_path import continued, record_path
from litespark.benchmarks.to_loss.reading import read_run
from litespark.benchmarks.training_runs.launch import Ended, Training, train
from litespark.benchmarks.training_runs.settings import RunSettings, refuse_a_variant
from litespark.benchmarks.training_runs.stream import model_and_stream
from litespark.benchmarks.training_runs.turns import Turns, device_state_of
from litespark.benchmarks.training_runs.variants import Variant, check
from litespark.experiment.config import Parts
from litespark.experiment.precision import precision_of
from litespark.metrics.records.to_loss import ToLossRecord, ToLossRun, ToLossVariant
from litespark.ranges import Positive

WHAT = "bench-to-loss"
# the first is the reference
DEFAULT = (
    Variant("reference", ("ops=reference", "optim=adamw", "schedule=cosine")),
    Variant("litespark", ("ops=litespark", "optim=adamw", "schedule=cosine")),
    Variant("muon", ("ops=litespark", "optim=muon", "schedule=wsd")),
)

Compose = Callable[[Sequence[str]], Parts]


@dataclass(frozen=True, kw_only=True)
class ToLossSettings(RunSettings):
    """How it is run.

    Attributes:
        target_bpb: bits per byte at which a run ends.
    """

    target_bpb: Positive


def bench_to_loss(
    compose: Compose,
    overrides: Sequence[str],
    variants: Sequence[Variant],
    settings: ToLossSettings,
    *,
    command: Sequence[str],
    script: Path,
    output: Path,
    say: Callable[[str], None],
    launch: Callable[[Training], Ended] = train,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[ToLossRecord, Path]:
    """Train, and write the record after every run.

    Args:
        compose: makes a config of overrides.
        overrides: of the config, as the user gave them.
        variants: the first is the reference.
        settings: how it is run.
        command: the words that get it again, for the record.
        script: `train.py`.
        output: folder of records; the file is DEVICE/DATE_bench-to-loss_MODEL_PRECISION.json in it.
        say: is told what is being done.
        launch, clock: replaced in tests.

    Raises:
        ValueError: the config cannot be trained to a target, a variant would see another stream, or a run did.
        OSError: the record cannot be written.
    """
    began = clock()
    refuse_a_variant(overrides)
    parts = compose([*overrides, f"budget.target_bpb={settings.target_bpb!r}"])
    check(parts, [(each, _composed(compose, overrides, each, settings)) for each in variants])
    new = begin(parts, overrides, variants, settings, command)
    origin = new.provenance
    path = record_path(output, origin.environment, WHAT, new.model.name, new.precision, origin.time)
    record, path = continued(new, path, read=ToLossRecord.read, unfinished=lambda each: _continues(each, new))
    if record is not new:
        say(f"{path}: continued, {sum(len(each.runs) for each in record.variants)} runs are there")
    record.write(path)  # what cannot be written is known before minutes are spent

    def training(variant: ToLossVariant, seed: int, seconds: float | None) -> Training:
        words = [*overrides, *variant.settings, f"budget.target_bpb={settings.target_bpb!r}"]
        logs = parts.logs.absolute() / "to-loss"
        return Training.of(record.provenance, variant.name, seed, words, script=script, logs=logs, seconds=seconds)

    def read(variant: ToLossVariant, folder: Path, seed: int, position: int) -> ToLossRun:
        return read_run(folder, seed=seed, position=position, target=settings.target_bpb, stream=record.stream)

    Turns(
        record,
        training,
        read,
        _said,
        save=lambda: record.write(path),
        say=say,
        launch=launch,
        clock=clock,
        deadline=None if settings.minutes is None else began + 60 * settings.minutes,
        state=lambda: device_state_of(parts),
    ).take()
    return record, path


def _said(run: ToLossRun) -> str:
    how = "reached" if run.reached else f"NOT reached, best {run.best_bits_per_byte:.4f} bits/byte"
    return f"{how} after {run.tokens:,} tokens and {run.train_seconds:.1f} s"


def begin(
    parts: Parts,
    overrides: Sequence[str],
    variants: Sequence[Variant],
    settings: ToLossSettings,
    command: Sequence[str],
) -> ToLossRecord:
    """The record without runs; prepares the text where that was not done before.

    Raises:
        ValueError: the device, the text or its vocabulary do not fit.
    """
    device = device_for(parts.trainer.accelerator)
    precision = precision_of(parts, device)
    model, stream = model_and_stream(parts)
    return ToLossRecord(
        provenance=provenance(parts, overrides, command, device, precision),
        target_bits_per_byte=settings.target_bpb,
        model=model,
        stream=stream,
        precision=precision,
        seeds=list(settings.seeds),
        variants=[ToLossVariant(each.name, list(each.settings)) for each in variants],
    )


def _composed(compose: Compose, overrides: Sequence[str], variant: Variant, settings: ToLossSettings) -> Parts:
    return compose([*overrides, *variant.settings, f"budget.target_bpb={settings.target_bpb!r}"])


def _continues(found: ToLossRecord, new: ToLossRecord) -> bool:
    """Whether `found` lacks runs, and those of `new` may stand beside the ones that it has."""

    def identity(record: ToLossRecord) -> tuple[object, ...]:
        origin = record.provenance
        variants = [(each.name, each.settings) for each in record.variants]
        return (origin.source_hash, origin.config_hash, origin.environment, record.target_bits_per_byte, record.model,
                record.stream, record.precision, record.seeds, variants)  # fmt: skip

    return not found.complete and identity(found) == identity(new)
