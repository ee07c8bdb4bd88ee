"""Runs of variants that take turns: `train.py` in a process of its own each, which can be stopped and continued."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from litespark.benchmarks.training.finished import read_run
from litespark.child_process import PYTHON, Ended, run
from litespark.device import find
from litespark.metrics.meters import choose_meter
from litespark.metrics.records.origin import DeviceState
from litespark.metrics.records.training import RunFailure, TrainedRun, TrainedVariant, TrainingRecord
from litespark.override_text import hydra_text
from litespark.run.checkout import QUIET
from litespark.run.config import Parts
from litespark.run.folder import CHECKPOINTS, RECORD
from litespark.run.record import RunRecord
from litespark.training.checkpoint.folder import can_resume

# a stopped run saves its state: gigabytes for a large model
_SECONDS_TO_SAVE = 120.0
# a run that is started to be stopped at once has learned nothing
_SHORTEST_SECONDS = 20.0


@dataclass(frozen=True)
class Training:
    """A run of `script`, which is `train.py`; after so many seconds it is stopped and saved."""

    script: Path
    overrides: tuple[str, ...]
    logs: Path
    name: str
    seconds: float | None = None

    @property
    def folder(self) -> Path:
        return self.logs / "runs" / self.name


def train(training: Training) -> Ended:
    """Start the run, or continue what is in its folder, and wait for it.

    An interrupt or a termination of this process lets that one save and end first; one that is killed takes it along.
    """
    if _is_finished(training.folder):
        return Ended("finished")
    if can_resume(training.folder):
        start = f"resume={hydra_text(str(training.folder))}"
    else:
        shutil.rmtree(training.folder, ignore_errors=True)
        start = f"name={training.name}"
    logs = f"paths.logs={hydra_text(str(training.logs))}"
    return run(
        [*PYTHON, str(training.script), *training.overrides, logs, start],
        training.logs / f"{training.name}.txt",
        seconds=training.seconds,
        grace=_SECONDS_TO_SAVE,
    )


def _is_finished(folder: Path) -> bool:
    try:
        return RunRecord.read(folder / RECORD).status == "finished"
    except (OSError, ValueError):
        return False


@dataclass
class Turns:
    """Takes the runs that a record lacks; `overrides` are those of each variant by its name."""

    record: TrainingRecord
    path: Path
    overrides: Mapping[str, Sequence[str]]
    parts: Parts
    script: Path
    logs: Path
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
            training = self._training(variant, seed, seconds)
            before = self._device_state()
            ended = self.launch(training)
            if ended.outcome == "stopped":
                saved = "stopped and saved" if can_resume(training.folder) else "stopped, nothing was saved"
                self.say(f"{title}: {saved}; the same command continues")
                return
            try:
                if ended.outcome == "failed":
                    raise ValueError(ended.error)
                run = read_run(training.folder, self.record, variant, seed, position)
                variant.runs.append(replace(run, before=before, after=self._device_state()))
                self.record.check()
            except (ValueError, OSError) as error:
                failed.add(variant.name)
                # a run that contradicts the others would make the whole record unreadable
                variant.runs[:] = [other for other in variant.runs if other.seed != seed]
                variant.failures.append(RunFailure(seed=seed, error=str(error)))
                self.say(f"{title} failed: {error}")
            else:
                # what it logged stays
                shutil.rmtree(training.folder / CHECKPOINTS, ignore_errors=True)
                self.say(f"{title}: {_outcome(run, self.record.target_bits_per_byte)}")
            self.record.write(self.path)

    def _training(self, variant: TrainedVariant, seed: int, seconds: float | None) -> Training:
        """The run of a variant with a seed; of other code or in another record it is another run."""
        overrides = (*self.overrides[variant.name], f"seed={seed}", *QUIET)
        origin = self.record.provenance
        identity = json.dumps([origin.source_hash, origin.config_hash, origin.time, *overrides])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        return Training(self.script, overrides, self.logs, f"{variant.name}-{seed}-{digest}", seconds)

    def _device_state(self) -> DeviceState | None:
        return choose_meter(find(self.parts.trainer.accelerator)).device_state()


def _outcome(run: TrainedRun, target: float | None) -> str:
    missed = "" if target is None or run.end.bits_per_byte <= target else f", target NOT reached ({target:g})"
    return f"{run.end.bits_per_byte:.4f} bits/byte after {run.end.tokens:,} tokens and {run.end.seconds:.1f} s{missed}"
