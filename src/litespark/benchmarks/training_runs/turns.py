"""Runs of variants that take turns, each kept in a record as soon as it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from litespark.benchmarks.device import device_for
from litespark.benchmarks.training_runs.launch import Ended, Training, tidy, train
from litespark.experiment.build import build_meter
from litespark.experiment.config import Parts
from litespark.experiment.precision import precision_of
from litespark.experiment.preflight import Machine
from litespark.launch import Ranks
from litespark.metrics.device_state import device_state
from litespark.metrics.records.bench import DeviceState
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.training_runs import RunFailure

# a run that is started to be stopped at once has learned nothing
_SHORTEST_SECONDS = 20.0


class Record(Protocol):
    """What is filled: variants with a name, `runs` and `failures`."""

    complete: bool

    def missing(self) -> Iterator[tuple[Any, int, int]]:
        """(variant, seed, position) of every run that is not there, in the order in which they take turns."""
        ...

    def check(self) -> None:
        """Raise RecordError where it contradicts itself."""
        ...


@dataclass
class Turns:
    """Takes the runs that a record lacks.

    Attributes:
        record: is filled.
        training: (variant, seed, seconds that are left or None) -> the run to start.
        read: (variant, folder, seed, position) -> the finished run, for the record.
        said: what a finished run came to, in a few words.
        save: writes the record.
        say: is told what is being done.
        launch, clock: replaced in tests.
        deadline: of `clock`, at which the run that is under way is stopped and saved; None: never.
        state: of the device before and after a run; None: it is not noted.
    """

    record: Record
    training: Callable[[Any, int, float | None], Training]
    read: Callable[[Any, Path, int, int], Any]
    said: Callable[[Any], str]
    save: Callable[[], None]
    say: Callable[[str], None]
    launch: Callable[[Training], Ended] = train
    clock: Callable[[], float] = time.monotonic
    deadline: float | None = None
    state: Callable[[], DeviceState | None] | None = None

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
            self.say(f"{variant.name}, seed {seed}")
            training = self.training(variant, seed, seconds)
            before = None if self.state is None else self.state()
            ended = self.launch(training)
            if ended.outcome == "stopped":
                self.say(f"stopped {variant.name} with seed {seed}: the same command continues")
                return
            try:
                if ended.outcome == "failed":
                    raise RecordError(ended.error or "it said nothing")
                self._keep(variant, self.read(variant, training.folder, seed, position), before)
            except RecordError as error:
                failed.add(variant.name)
                self._fail(variant, seed, str(error))
            else:
                tidy(training.folder)
            self.save()

    def _keep(self, variant: Any, run: Any, before: DeviceState | None) -> None:
        if self.state is not None:
            run.before, run.after = before, self.state()
        variant.runs.append(run)
        self.record.complete = not any(True for _ in self.record.missing())
        self.record.check()
        self.say(f"{variant.name}, seed {run.seed}: {self.said(run)}")

    def _fail(self, variant: Any, seed: int, error: str) -> None:
        """Note the error; a run that the record contradicts itself with would be lost with all that it holds."""
        variant.runs[:] = [each for each in variant.runs if each.seed != seed]
        self.record.complete = False
        variant.failures.append(RunFailure(seed, error))
        self.say(f"{variant.name}, seed {seed} failed: {error}")


def device_state_of(parts: Parts) -> DeviceState | None:
    """The state of the device that runs of `parts` use; None without NVML or a GPU."""
    device = device_for(parts.trainer.accelerator)
    if device.type != "cuda":
        return None
    meter = build_meter(Machine(device, precision_of(parts, device), 1, Ranks.from_environment()))
    state = device_state(meter)
    meter.close()
    return state
