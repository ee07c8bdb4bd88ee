"""`litespark bench step` from start to end: fresh processes of variants that take turns, saved one by one.

A round runs every variant once, each in a process of its own, every second round in reversed order, so that a device
that warms up or slows down meets all of them alike. The same command continues what was stopped, also by `kill -9`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from litespark.benchmarks.record_path import continued, record_path
from litespark.benchmarks.step.begin import Compose, add_rates, decide, described, shared_overrides
from litespark.benchmarks.step.recompute import KINDS, next_recompute
from litespark.benchmarks.step.request import Request, launch
from litespark.benchmarks.step.settings import StepSettings
from litespark.benchmarks.step.variants import Variant
from litespark.metrics.records.base import RecordError
from litespark.metrics.records.step import RoundRecord, StepRecord, VariantRecord
from litespark.ops.measuring import default_cache

WHAT = "bench-step"
_COMPILE_CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


class Launch(Protocol):
    """Runs one process; `litespark.benchmarks.step.request.launch` is the real one."""

    def __call__(self, request: Request, overrides: Sequence[str], folder: Path, *, timeout: float) -> RoundRecord: ...


def bench_step(
    compose: Compose,
    overrides: Sequence[str],
    variants: Sequence[Variant],
    settings: StepSettings,
    *,
    command: Sequence[str],
    output: Path,
    say: Callable[[str], None],
    launch: Launch = launch,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[StepRecord, Path]:
    """Measure, and write the record after every process.

    Args:
        compose: makes a config of overrides.
        overrides: of the config, as the user gave them.
        variants: in the order in which they take turns.
        settings: how it is run.
        command: the words that get it again, for the record.
        output: folder of records; the file is DEVICE/DATE_bench-step_MODEL_PRECISION.json in it.
        say: is told what is being done.
        launch, clock: replaced in tests.

    Raises:
        ValueError: the config cannot be measured, or a variant changes what must be the same for all.
        OSError: the record cannot be written.
    """
    began = clock()
    decided = decide(compose, overrides, variants, settings)
    new = described(decided, overrides, settings, command)
    record, path = continued(new, file_of(new, output, WHAT))
    if record is new:
        say("measuring what this device reaches")
        add_rates(record, decided)
        record.write(path)  # what cannot be written is known before minutes are spent
    else:
        say(f"{path}: continued, {sum(len(each.measured) for each in record.variants)} processes are there")
    measure(record, overrides, settings, save=lambda: record.write(path), say=say, launch=launch, clock=clock,
            began=began)  # fmt: skip
    return record, path


def file_of(record: StepRecord, output: Path, what: str) -> Path:
    """A new file for a record of `begin`; `what` names the benchmark in its name, such as `bench-step`."""
    return record_path(output, record.provenance, what, record.model.name, record.protocol.precision)


def measure(
    record: StepRecord,
    overrides: Sequence[str],
    settings: StepSettings,
    *,
    save: Callable[[], None],
    say: Callable[[str], None],
    launch: Launch = launch,
    clock: Callable[[], float] = time.monotonic,
    began: float | None = None,
) -> None:
    """Run the processes that the record lacks.

    A variant that runs out of memory is tried again at once with the next kind of recomputation, and keeps it. One
    that fails in another way is left out until the same command is given again. Attempts of both kinds stay in the
    record. With `settings.minutes` no process but the first is begun that would end later, going by the last of its
    variant, or by the longest of all where it is the first of its variant.

    Args:
        record: of `begin`, or continued; it is filled.
        overrides: of the config, as the user gave them.
        settings: as given to `begin`.
        save: called after every process.
        say: is told what is being done.
        launch: runs a process.
        clock: seconds.
        began: when the minutes began by that clock; None: now.
    """
    turns = _Turns(record, overrides, settings, save, say, launch, clock)
    turns.deadline = None if settings.minutes is None else (clock() if began is None else began) + 60 * settings.minutes
    with shared_compile_cache(default_cache().parent / "compiled"), tempfile.TemporaryDirectory() as folder:
        turns.take(Path(folder))


@contextmanager
def shared_compile_cache(folder: Path) -> Iterator[None]:
    """Let all processes share what they compile, below `folder` unless the environment names other places."""
    added = {name: str(folder / each) for name, each in _COMPILE_CACHES.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class _Turns:
    """One session of processes."""

    def __init__(
        self,
        record: StepRecord,
        overrides: Sequence[str],
        settings: StepSettings,
        save: Callable[[], None],
        say: Callable[[str], None],
        launch: Launch,
        clock: Callable[[], float],
    ) -> None:
        self.record = record
        self.overrides = shared_overrides(overrides, [each.kind for each in record.variants])
        self.settings = settings
        self.save = save
        self.say = say
        self.launch = launch
        self.clock = clock
        self.deadline: float | None = None
        self.failed: set[str] = set()
        self.begun = False
        self.seconds = {each.name: _seconds_known(each) for each in record.variants}

    def take(self, folder: Path) -> None:
        """Every process that is missing, round by round, until the time is up."""
        for round_ in range(self.record.protocol.rounds):
            order = _able(self.record)
            for position, variant in enumerate(order if round_ % 2 == 0 else reversed(order)):
                while not _done(variant, round_) and variant.name not in self.failed:
                    if self._too_late(variant):
                        self.say(f"stopped before {variant.name} of round {round_ + 1}: the same command continues")
                        return
                    self._run(variant, round_, position, folder)

    def _too_late(self, variant: VariantRecord) -> bool:
        """Whether its process would end after the deadline; the first of a session never would, or none ever came."""
        if self.deadline is None or not self.begun:
            return False
        expected = self.seconds[variant.name] or max(self.seconds.values())
        return self.clock() + expected >= self.deadline

    def _run(self, variant: VariantRecord, round_: int, position: int, folder: Path) -> None:
        recompute = next_recompute(variant)
        protocol = self.record.protocol
        said = f"{variant.name}, round {round_ + 1} of {protocol.rounds}"
        self.say(said + (f", recompute {recompute}" if recompute else ""))
        request = Request(
            variant=variant.name,
            kind=variant.kind,
            settings=list(variant.settings),
            recompute=recompute,
            layers=self.record.model.num_layers
            if self.record.model.num_layers < self.record.model.layers_whole
            else None,
            warmup_steps=protocol.warmup_steps,
            steps=protocol.steps,
            loss_rows=protocol.loss_rows,
            round=round_,
            position=position,
        )
        self.begun = True
        started = self.clock()
        found = self.launch(request, self.overrides, folder, timeout=self.settings.process_timeout)
        self.seconds[variant.name] = self.clock() - started
        self._keep(variant, request, found)
        self.save()

    def _keep(self, variant: VariantRecord, request: Request, found: RoundRecord) -> None:
        variant.rounds.append(found)
        try:
            _check_answer(request, found)
            self.record.check()
        except RecordError as error:  # a record that cannot be read again would be lost with all that it holds
            found = RoundRecord(request.round, request.position, "failed", found.recompute, error=str(error))
            variant.rounds[-1] = found
        if found.outcome == "failed":
            self.failed.add(variant.name)
        if found.outcome != "measured":
            self.say(f"{variant.name}: {found.outcome}: {found.error}")


def _check_answer(request: Request, found: RoundRecord) -> None:
    """Refuse an answer to something else, which would be asked for again and again."""
    if (found.round, found.position) != (request.round, request.position):
        raise RecordError(f"got an answer for round {found.round}, expected one for round {request.round}")
    kinds = KINDS[request.kind] if request.recompute is None else (request.recompute,)
    if found.outcome != "failed" and found.recompute not in kinds:
        raise RecordError(f"got an answer with recompute {found.recompute}, expected {' or '.join(kinds)}")


def _done(variant: VariantRecord, round_: int) -> bool:
    if any(each.round == round_ for each in variant.measured):
        return True
    try:
        next_recompute(variant)
    except LookupError:
        return True
    return False


def _able(record: StepRecord) -> list[VariantRecord]:
    return [each for each in record.variants if each.reason is None]


def _seconds_known(variant: VariantRecord) -> float:
    """About what the last process of a variant took; 0 where none was measured."""
    if not variant.measured:
        return 0.0
    last = variant.measured[-1]
    return (last.seconds_before or 0.0) + sum(last.step_ms) / 1e3
