"""Runs of variants that take turns, each kept in the record as soon as it has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from litespark.benchmarks.child_process import Ended
from litespark.benchmarks.training.finished import read_run
from litespark.benchmarks.training.launch import Training, tidy
from litespark.device import find
from litespark.metrics.records.origin import DeviceState
from litespark.metrics.records.training import RunFailure, TrainedRun, TrainedVariant, TrainingRecord
from litespark.run.config import Parts
from litespark.run.instruments import build_meter
from litespark.training.checkpoint.folder import can_resume

# a run that is started to be stopped at once has learned nothing
_SHORTEST_SECONDS = 20.0


@dataclass
class Turns:
    """Takes the runs that a record lacks.

    Attributes:
        record: is filled, and written to `path` after every run.
        training: (variant, seed, seconds that are left or None) -> the run to start.
        state: of the device before and after a run.
        say: is told what is being done.
        launch: runs one to its end; clock: in seconds.
        deadline: of `clock`, at which the run that is under way is stopped and saved; None: never.
    """

    record: TrainingRecord
    path: Path
    training: Callable[[TrainedVariant, int, float | None], Training]
    state: Callable[[], DeviceState | None]
    say: Callable[[str], None]
    launch: Callable[[Training], Ended]
    clock: Callable[[], float]
    deadline: float | None

    def take(self) -> None:
        """Run by run, until the time is up. A variant that fails is left out until the same command is given again."""
        failed: set[str] = set()
        for variant, seed, position in list(self.record.missing()):
            if variant.name in failed:
                continue
            title = f"{variant.name}, seed {seed}"
            seconds = None if self.deadline is None else self.deadline - self.clock()
            if seconds is not None and seconds < _SHORTEST_SECONDS:
                self.say(f"{title}: not started, the time is up; the same command continues")
                return
            self.say(title)
            training = self.training(variant, seed, seconds)
            before = self.state()
            ended = self.launch(training)
            if ended.outcome == "stopped":
                saved = "stopped and saved" if can_resume(training.folder) else "stopped, nothing was saved"
                self.say(f"{title}: {saved}; the same command continues")
                return
            try:
                if ended.outcome == "failed":
                    raise ValueError(ended.error or "it said nothing")
                run = read_run(training.folder, self.record, variant, seed, position)
                variant.runs.append(replace(run, before=before, after=self.state()))
                self.record.check()
            except (ValueError, OSError) as error:
                failed.add(variant.name)
                # a run that contradicts the others would make the whole record unreadable
                variant.runs[:] = [other for other in variant.runs if other.seed != seed]
                variant.failures.append(RunFailure(seed=seed, error=str(error)))
                self.say(f"{title} failed: {error}")
            else:
                tidy(training.folder)
                self.say(f"{title}: {_outcome(run, self.record.target_bits_per_byte)}")
            self.record.write(self.path)


def _outcome(run: TrainedRun, target: float | None) -> str:
    missed = "" if target is None or run.end.bits_per_byte <= target else f", target NOT reached ({target:g})"
    return f"{run.end.bits_per_byte:.4f} bits/byte after {run.end.tokens:,} tokens and {run.end.seconds:.1f} s{missed}"


def device_state_of(parts: Parts) -> DeviceState | None:
    """The state of the device that runs of `parts` use; None without NVML or a GPU."""
    return build_meter(find(parts.trainer.accelerator)).device_state()
