"""`litespark bench step` from start to end: fresh processes of variants that take turns, saved one by one.

The same command continues what was stopped, also by `kill -9`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from litespark.benchmarks.session import begin, record_path, turns
from litespark.benchmarks.step.begin import Decided, StepSettings, add_rates, decide, described
from litespark.benchmarks.step.request import Request, launch
from litespark.benchmarks.step.variants import Variant
from litespark.metrics.records.base import RecordError
from litespark.metrics.records.step import RoundRecord, StepRecord, VariantKind, VariantRecord
from litespark.ops.measuring import default_cache

WHAT = "bench-step"
_COMPILE_CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
# kinds of recomputation that are tried one after the other where memory does not suffice
RECOMPUTES: dict[VariantKind, tuple[str, ...]] = {
    "huggingface": ("none", "full"),
    "litespark": ("none", "swiglu", "full"),
    "bare": ("none", "swiglu", "full"),
    "train.py": ("none", "swiglu", "full"),
}


class Launch(Protocol):
    """Runs one process; `litespark.benchmarks.step.request.launch` is the real one."""

    def __call__(self, request: Request, overrides: Sequence[str], folder: Path, *, timeout: float) -> RoundRecord: ...


@dataclass(frozen=True)
class Surroundings:
    """What a session is told about, runs with and looks at; replaced in tests."""

    say: Callable[[str], None]
    launch: Launch = launch
    clock: Callable[[], float] = time.monotonic


def bench_step(
    overrides: Sequence[str],
    variants: Sequence[Variant],
    settings: StepSettings,
    *,
    command: Sequence[str],
    output: Path,
    around: Surroundings,
) -> tuple[StepRecord, Path]:
    """Measure, and write the record after every process.

    Args:
        overrides: of the config, as the user gave them.
        variants: in the order in which they take turns.
        settings: how it is run.
        command: to reproduce it, for the record.
        output: folder of records; the file is DEVICE/DATE_bench-step_MODEL_PRECISION.json in it.
        around: the session's surroundings.

    Raises:
        ValueError: the config cannot be measured, or a variant changes what must be the same for all.
        OSError: the record cannot be written.
    """
    began = around.clock()
    decided = decide(overrides, variants, settings)
    new = described(decided, overrides, settings, command)
    record, path = begin(new, step_path(new, output, WHAT), done=processes, say=around.say)
    measure(record, decided, settings, around, save=lambda: record.write(path), began=began)
    return record, path


def step_path(record: StepRecord, output: Path, what: str) -> Path:
    """A new file for a record of this measurement."""
    return record_path(output, record.provenance, what, record.model.name, record.protocol.precision)


def processes(record: StepRecord) -> str:
    """How many are measured, in words."""
    return f"{sum(len(variant.measured) for variant in record.variants)} processes"


def measure(
    record: StepRecord,
    decided: Decided,
    settings: StepSettings,
    around: Surroundings,
    *,
    save: Callable[[], None],
    began: float,
) -> None:
    """Measure the rates and run the processes that the record lacks.

    A variant that runs out of memory is tried again at once with the next kind of recomputation, and keeps it. One
    that fails in another way is left out until the same command is given again. Attempts of both kinds stay in the
    record. With `settings.minutes` no process but the first is begun that would end later, going by the last of its
    variant, or by the longest of all where it is the first of its variant.

    Args:
        record: of `described`, or continued; it is filled.
        decided: what is measured; settings: how.
        around: the session's surroundings.
        save: called after every process.
        began: when the minutes began by the clock.
    """
    around.say("measuring what this device reaches")
    add_rates(record, decided)
    save()
    deadline = None if settings.minutes is None else began + 60 * settings.minutes
    with _shared_compile_cache(default_cache().parent / "compiled"), tempfile.TemporaryDirectory() as folder:
        _Session(record, decided, settings, around, save, deadline, Path(folder)).take()


def next_recompute(variant: VariantRecord) -> str | None:
    """What the next process of a variant recomputes; None: as the variant has it of itself.

    Raises:
        LookupError: memory did not suffice with the last of its kinds either.
    """
    tried = [attempt.recompute for attempt in variant.rounds if attempt.outcome == "out of memory"]
    if not tried:
        return None
    kinds = RECOMPUTES[variant.kind]
    later = kinds[kinds.index(tried[-1]) + 1 :]
    if not later:
        raise LookupError(f"{variant.name} is out of memory with recompute {tried[-1]}")
    return later[0]


@contextmanager
def _shared_compile_cache(folder: Path) -> Iterator[None]:
    """Let all processes share what they compile, below `folder` unless the environment names other places."""
    added = {name: str(folder / part) for name, part in _COMPILE_CACHES.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@dataclass
class _Session:
    record: StepRecord
    decided: Decided
    settings: StepSettings
    around: Surroundings
    save: Callable[[], None]
    deadline: float | None
    folder: Path
    failed: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    begun: bool = False

    def take(self) -> None:
        """Every process that is missing, round by round, until the time is up."""
        self.seconds = {variant.name: _seconds_known(variant) for variant in self.record.variants}
        for number, position, variant in turns(_able(self.record), self.record.protocol.rounds):
            while not _done(variant, number) and variant.name not in self.failed:
                if self._too_late(variant):
                    self.around.say(f"stopped before {variant.name} of round {number + 1}: the same command continues")
                    return
                self._run(variant, number, position)
                self.save()

    def _too_late(self, variant: VariantRecord) -> bool:
        """Whether its process would end after the deadline; the first of a session never would, or none ever came."""
        if self.deadline is None or not self.begun:
            return False
        expected = self.seconds[variant.name] or max(self.seconds.values())
        return self.around.clock() + expected >= self.deadline

    def _run(self, variant: VariantRecord, number: int, position: int) -> None:
        recompute, protocol = next_recompute(variant), self.record.protocol
        title = f"{variant.name}, round {number + 1} of {protocol.rounds}"
        self.around.say(title + (f", recompute {recompute}" if recompute else ""))
        request = Request(
            variant=variant.name,
            kind=variant.kind,
            settings=list(variant.settings),
            recompute=recompute,
            layers=self.decided.layers,
            warmup_steps=protocol.warmup_steps,
            steps=protocol.steps,
            loss_rows=protocol.loss_rows,
            round=number,
            position=position,
        )
        self.begun, started = True, self.around.clock()
        timeout = self.settings.process_timeout
        answer = self.around.launch(request, self.decided.overrides, self.folder, timeout=timeout)
        self.seconds[variant.name] = self.around.clock() - started
        self._keep(variant, request, answer)

    def _keep(self, variant: VariantRecord, request: Request, answer: RoundRecord) -> None:
        variant.rounds.append(answer)
        try:
            _check_answer(request, answer)
            self.record.check()
        except RecordError as error:  # a record that cannot be read again would be lost with all that it holds
            answer = RoundRecord(
                round=request.round,
                position=request.position,
                outcome="failed",
                recompute=answer.recompute,
                error=str(error),
            )
            variant.rounds[-1] = answer
        if answer.outcome != "measured":
            self.around.say(f"{variant.name}: {answer.outcome}: {answer.error}")
        if answer.outcome == "failed":
            self.failed.add(variant.name)


def _check_answer(request: Request, answer: RoundRecord) -> None:
    """Refuse an answer to something else, which would be asked for again and again."""
    if (answer.round, answer.position) != (request.round, request.position):
        raise RecordError(f"got an answer for round {answer.round}, expected one for round {request.round}")
    kinds = RECOMPUTES[request.kind] if request.recompute is None else (request.recompute,)
    if answer.outcome != "failed" and answer.recompute not in kinds:
        raise RecordError(f"got an answer with recompute {answer.recompute}, expected {' or '.join(kinds)}")


def _done(variant: VariantRecord, number: int) -> bool:
    if any(answer.round == number for answer in variant.measured):
        return True
    try:
        next_recompute(variant)
    except LookupError:
        return True
    return False


def _able(record: StepRecord) -> list[VariantRecord]:
    return [variant for variant in record.variants if variant.reason is None]


def _seconds_known(variant: VariantRecord) -> float:
    """About what the last process of a variant took; 0 where none was measured."""
    if not variant.measured:
        return 0.0
    last = variant.measured[-1]
    return (last.seconds_before or 0.0) + sum(last.step_ms) / 1e3
