"""`litespark bench step` from start to end: fresh processes of variants that take turns, saved one by one.

The same command continues what was stopped, also by `kill -9`.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from litespark.benchmarks.session import begin, record_path, turns
from litespark.benchmarks.step.begin import Decided, StepSettings, add_rates, decide, described
from litespark.benchmarks.step.request import Request, launch
from litespark.benchmarks.step.variants import Variant
from litespark.metrics.records.base import RecordError
from litespark.metrics.records.step import RoundRecord, StepRecord, VariantKind, VariantRecord
from litespark.models.spec import Recompute

S = TypeVar("S", bound=StepRecord)

_OURS: tuple[Recompute, ...] = ("none", "swiglu", "full")
# kinds of recomputation that are tried one after the other where memory does not suffice
RECOMPUTES: dict[VariantKind, tuple[Recompute, ...]] = {
    "huggingface": ("none", "full"),
    "litespark": _OURS,
    "bare": _OURS,
    "train.py": _OURS,
}


def bench_step(
    overrides: Sequence[str],
    variants: Sequence[Variant],
    settings: StepSettings,
    *,
    command: Sequence[str],
    output: Path,
    say: Callable[[str], None],
    launch: Callable[..., RoundRecord] = launch,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[StepRecord, Path]:
    """Measure, and write the record after every process.

    Args:
        overrides: of the config, as the user gave them; command: to reproduce it; `launch` and `clock` are for tests.
        output: folder of records; the file is DEVICE/DATE_bench-step_MODEL_PRECISION.json in it.
    """
    began = clock()
    decided = decide(overrides, variants, settings)
    record, path = begin_steps(described(decided, overrides, settings, command), output, "bench-step", say)
    StepTurns(record, path, decided, settings, say, launch, clock, began).take()
    return record, path


def begin_steps(new: S, output: Path, what: str, say: Callable[[str], None]) -> tuple[S, Path]:
    path = record_path(output, new.provenance, what, new.model.name, new.protocol.precision)
    return begin(new, path, done=lambda old: f"{sum(len(one.measured) for one in old.variants)} processes", say=say)


@dataclass
class StepTurns:
    """Measures the rates and runs the processes that a record lacks, round by round.

    A variant that runs out of memory is tried again at once with the next kind of recomputation, and keeps it. One
    that fails in another way is left out until the same command is given again. With `settings.minutes` no process but
    the first is begun that would end later, going by the last of its variant, or the longest of all.
    """

    record: StepRecord
    path: Path
    decided: Decided
    settings: StepSettings
    say: Callable[[str], None]
    launch: Callable[..., RoundRecord]
    clock: Callable[[], float]
    began: float
    failed: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    started: bool = False

    def take(self) -> None:
        """Every process that is missing, until the time is up."""
        self.say("measuring what this device reaches")
        add_rates(self.record, self.decided)
        self.record.write(self.path)
        able = [variant for variant in self.record.variants if variant.reason is None]
        self.seconds = {variant.name: _seconds_known(variant) for variant in able}
        with tempfile.TemporaryDirectory() as folder:
            for number, position, variant in turns(able, self.record.protocol.rounds):
                while not _done(variant, number) and variant.name not in self.failed:
                    if self._too_late(variant):
                        self.say(f"stopped before {variant.name} of round {number + 1}: the same command continues")
                        return
                    self._run(variant, number, position, Path(folder))
                    self.record.write(self.path)

    def _too_late(self, variant: VariantRecord) -> bool:
        """Whether its process would end after the deadline; the first of a session never would, or none ever came."""
        if self.settings.minutes is None or not self.started:
            return False
        expected = self.seconds[variant.name] or max(self.seconds.values())
        return self.clock() + expected >= self.began + 60 * self.settings.minutes

    def _run(self, variant: VariantRecord, number: int, position: int, folder: Path) -> None:
        (recompute, *_), protocol = _recomputes_left(variant), self.record.protocol
        title = f"{variant.name}, round {number + 1} of {protocol.rounds}"
        self.say(title + (f", recompute {recompute}" if recompute else ""))
        overrides = [*self.decided.overrides, *variant.settings]
        request = Request(variant.name, variant.kind, overrides, recompute, self.decided.layers, protocol.warmup_steps,
                          protocol.steps, protocol.loss_sequences, number, position)  # fmt: skip
        self.started, start = True, self.clock()
        answer = self.launch(request, folder, timeout=self.settings.process_timeout)
        self.seconds[variant.name] = self.clock() - start
        variant.rounds.append(answer)
        try:
            self.record.check()
        except RecordError as error:  # a record that cannot be read again would be lost with all that it holds
            variant.rounds[-1] = answer = request.record("failed", answer.recompute, error=str(error))
        if answer.outcome != "measured":
            self.say(f"{variant.name}: {answer.outcome}: {answer.error}")
        if answer.outcome == "failed":
            self.failed.add(variant.name)


def _recomputes_left(variant: VariantRecord) -> list[Recompute | None]:
    """What the next processes of a variant may recompute; None: as it has it of itself; nothing: no memory suffices."""
    tried = [attempt.recompute for attempt in variant.rounds if attempt.outcome == "out of memory"]
    kinds: list[Recompute | None] = [*RECOMPUTES[variant.kind]]
    return kinds[kinds.index(tried[-1]) + 1 :] if tried else [None]  # type: ignore[arg-type]


def _done(variant: VariantRecord, number: int) -> bool:
    return any(answer.round == number for answer in variant.measured) or not _recomputes_left(variant)


def _seconds_known(variant: VariantRecord) -> float:
    """About what the last process of a variant took; 0 where none was measured."""
    return sum((last.seconds_before or 0.0) + sum(last.step_ms) / 1e3 for last in variant.measured[-1:])
