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
from litespark.benchmarks.to_loss.variants import Variant, check
from litespark.benchmarks.training_runs.launch import Ended, Training, tidy, train
from litespark.data.streaming import build_data_module
from litespark.experiment.build import build_meter, check_vocabulary, token_budget
from litespark.experiment.config import ConfigError, Parts
from litespark.experiment.preflight import Machine, Ranks, precision_on
from litespark.experiment.variant import KEY
from litespark.metrics.device_state import device_state
from litespark.metrics.records.bench import DeviceState
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.to_loss import (
    ToLossFailure,
    ToLossModel,
    ToLossRecord,
    ToLossRun,
    ToLossStream,
    ToLossVariant,
)

WHAT = "bench-to-loss"
# a run that is started to be stopped at once has learned nothing
_SHORTEST_SECONDS = 20.0

Compose = Callable[[Sequence[str]], Parts]


@dataclass(frozen=True)
class ToLossSettings:
    """How it is run.

    Attributes:
        target_bpb: bits per byte at which a run ends.
        seeds: one run of every variant for each.
        minutes: after which the run that is under way is stopped and saved; None: never.
    """

    target_bpb: float
    seeds: tuple[int, ...] = (1,)
    minutes: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.target_bpb < float("inf"):
            raise ValueError(f"--target-bpb: got {self.target_bpb}, expected bits per byte above 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"--seeds: got {list(self.seeds)}, expected whole numbers of 0 or more, each once")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"--minutes: got {self.minutes}, expected more than 0")


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
    _refuse_stronger(overrides)
    parts = compose([*overrides, f"budget.target_bpb={settings.target_bpb!r}"])
    check(parts, [(each, _composed(compose, overrides, each, settings)) for each in variants])
    new = begin(parts, overrides, variants, settings, command)
    origin = new.provenance
    path = record_path(output, origin.environment, WHAT, new.model.name, new.precision, origin.time)
    record, path = continued(new, path, read=ToLossRecord.read, unfinished=lambda each: _continues(each, new))
    if record is not new:
        say(f"{path}: continued, {sum(len(each.runs) for each in record.variants)} runs are there")
    record.write(path)  # what cannot be written is known before minutes are spent
    session = _Session(record, parts, overrides, script, lambda: record.write(path), say, launch, clock)
    session.deadline = None if settings.minutes is None else began + 60 * settings.minutes
    session.take()
    return record, path


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
    precision = precision_on(device, parts.precision)
    data = build_data_module(parts.data, seed=parts.seed)
    check_vocabulary(parts, data.manifest)
    assert parts.trainer.validate_every is not None
    return ToLossRecord(
        provenance=provenance(parts, overrides, command, device, precision),
        target_bits_per_byte=settings.target_bpb,
        model=ToLossModel(parts.model.name, parts.model.parameter_count()),
        stream=ToLossStream(
            name=data.manifest.name,
            manifest_hash=data.manifest.hash,
            sequence_length=parts.data.sequence_length,
            batch_rows=parts.trainer.batch_rows,
            validation_rows=parts.data.validation_rows,
            validate_every=parts.trainer.validate_every,
            budget_tokens=token_budget(parts).tokens,
        ),
        precision=precision,
        seeds=list(settings.seeds),
        variants=[ToLossVariant(each.name, list(each.settings)) for each in variants],
    )


def _refuse_stronger(overrides: Sequence[str]) -> None:
    """Refuse what would win over the settings of the variants, the seeds and the target.

    Raises:
        ConfigError: `variant` is among the overrides.
    """
    for word in overrides:
        if word.lstrip("+").startswith(f"{KEY}="):
            raise ConfigError(
                f"got the override {word}, expected plain ones: what it sets is stronger than the settings of the "
                "variants, the seeds and the target. Give these settings one by one"
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


class _Session:
    """Takes the runs that a record lacks."""

    def __init__(
        self,
        record: ToLossRecord,
        parts: Parts,
        overrides: Sequence[str],
        script: Path,
        save: Callable[[], None],
        say: Callable[[str], None],
        launch: Callable[[Training], Ended],
        clock: Callable[[], float],
    ) -> None:
        self.record = record
        self.parts = parts
        self.overrides = overrides
        self.script = script
        self.save = save
        self.say = say
        self.launch = launch
        self.clock = clock
        self.deadline: float | None = None

    def take(self) -> None:
        """Run by run, until the time is up. A variant that fails is left out until the same command is given again."""
        failed: set[str] = set()
        for variant, seed, position in list(self.record.missing()):
            if variant.name in failed:
                continue
            seconds = None if self.deadline is None else self.deadline - self.clock()
            if seconds is not None and seconds < _SHORTEST_SECONDS:
                self.say(f"stopped before {variant.name} with seed {seed}: the same command continues")
                return
            training = self._training(variant, seed, seconds)
            self.say(f"{variant.name}, seed {seed}")
            before = self._state()
            ended = self.launch(training)
            if ended.outcome == "stopped":
                self.say(f"stopped {variant.name} with seed {seed}: the same command continues")
                return
            if ended.outcome == "failed":
                failed.add(variant.name)
                self._fail(variant, seed, ended.error or "it said nothing")
                continue
            run = read_run(
                training.folder,
                seed=seed,
                position=position,
                target=self.record.target_bits_per_byte,
                stream=self.record.stream,
            )
            run.before, run.after = before, self._state()
            self._keep(variant, run)
            tidy(training.folder)

    def _training(self, variant: ToLossVariant, seed: int, seconds: float | None) -> Training:
        target = f"budget.target_bpb={self.record.target_bits_per_byte!r}"
        return Training.of(
            self.record.provenance,
            variant.name,
            seed,
            [*self.overrides, *variant.settings, target],
            script=self.script,
            logs=self.parts.logs.absolute() / "to-loss",
            seconds=seconds,
        )

    def _fail(self, variant: ToLossVariant, seed: int, error: str) -> None:
        self.say(f"{variant.name}, seed {seed} failed: {error}")
        variant.failures.append(ToLossFailure(seed, error))
        self.save()

    def _keep(self, variant: ToLossVariant, run: ToLossRun) -> None:
        variant.runs.append(run)
        self.record.complete = not any(True for _ in self.record.missing())
        try:
            self.record.check()
        except RecordError as error:  # a record that cannot be read again would be lost with all that it holds
            variant.runs.pop()
            self.record.complete = False
            self._fail(variant, run.seed, str(error))
            return
        how = "reached" if run.reached else f"NOT reached, best {run.best_bits_per_byte:.4f} bits/byte"
        self.say(f"{variant.name}, seed {run.seed}: {how} after {run.tokens:,} tokens and {run.train_seconds:.1f} s")
        self.save()

    def _state(self) -> DeviceState | None:
        device = device_for(self.parts.trainer.accelerator)
        if device.type != "cuda":
            return None
        meter = build_meter(Machine(device, precision_on(device, self.parts.precision), 1, Ranks.from_environment()))
        state = device_state(meter)
        meter.close()
        return state


def seeds_of(words: str) -> tuple[int, ...]:
    """The seeds that `1,2` means.

    Raises:
        ValueError: it is no list of whole numbers.
    """
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError as error:
        raise ConfigError(f"--seeds: got {words!r}, expected whole numbers with commas between: 1,2,3") from error
