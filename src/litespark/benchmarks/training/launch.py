"""One run of a variant: `train.py` in a process of its own, which can be stopped, and continued by the next command."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from litespark.benchmarks.child_process import end_group, how_it_ended, termination_raises
from litespark.benchmarks.training import watched
from litespark.metrics.records.origin import Provenance
from litespark.metrics.records.run import RunRecord
from litespark.override_text import hydra_text
from litespark.run_folder import CHECKPOINTS, RECORD
from litespark.training.checkpoint.folder import can_resume

# a stopped run saves its state: gigabytes for a large model
_SECONDS_TO_SAVE = 120.0
# no more than a run needs: what else it did would be in its time
_LEAST = (
    "callbacks.progress=false",
    "callbacks.report=false",
    "callbacks.sample_prompt=null",
    "callbacks.checkpoint_every=null",
    "callbacks.checkpoint_at_end=false",
)


@dataclass(frozen=True)
class Training:
    """A run to be taken to its end.

    Attributes:
        script: `train.py`.
        overrides: that make it, without its name and folder.
        logs: below which its folder lies; name: of that folder in `runs`.
        seconds: after which it is stopped and saved; None: never.
    """

    script: Path
    overrides: tuple[str, ...]
    logs: Path
    name: str
    seconds: float | None = None

    @classmethod
    def of(
        cls,
        origin: Provenance,
        variant: str,
        seed: int,
        overrides: Sequence[str],
        *,
        script: Path,
        logs: Path,
        seconds: float | None = None,
    ) -> Training:
        """The run of a variant with a seed; of other code or in another record it is another run."""
        words = (*overrides, f"seed={seed}", *_LEAST)
        identity = [origin.source_hash, origin.config_hash, origin.time, *words]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
        return cls(script, words, logs, f"{variant}-{seed}-{digest}", seconds)

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.logs / "runs" / self.name


@dataclass(frozen=True)
class Ended:
    """How a process ended: with the run's last step, stopped before it, or with an error, whose last line is given."""

    outcome: Literal["finished", "stopped", "failed"]
    error: str | None = None


def train(training: Training) -> Ended:
    """Start the run, or continue what is in its folder, and wait for it.

    An interrupt or a termination of this process lets that one save and end first; one that is killed takes it along.
    """
    if _finished(training.folder):
        return Ended("finished")
    command = [sys.executable, "-m", watched.__name__, str(training.script), *training.overrides,
               f"paths.logs={hydra_text(str(training.logs))}", *_start_or_resume(training)]  # fmt: skip
    training.logs.mkdir(parents=True, exist_ok=True)
    printed = training.logs / f"{training.name}.txt"
    with printed.open("w") as output, termination_raises():
        # a group of its own, so that its children can be ended with it
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            stopped, status = _wait(process, training.seconds)
        finally:
            end_group(process)
    if status == 0:
        return Ended("finished")
    return Ended("stopped") if stopped else Ended("failed", how_it_ended(status, printed))


def tidy(folder: Path) -> None:
    """Remove the state of a run that is in the record; what it logged stays."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _finished(folder: Path) -> bool:
    try:
        return RunRecord.read(folder / RECORD).status == "finished"
    except (OSError, ValueError):
        return False


def _start_or_resume(training: Training) -> list[str]:
    if can_resume(training.folder):
        return [f"resume={hydra_text(str(training.folder))}"]
    shutil.rmtree(training.folder, ignore_errors=True)
    return [f"name={training.name}"]


def _wait(process: subprocess.Popen[bytes], seconds: float | None) -> tuple[bool, int]:
    """Whether the process had to be stopped, and its status."""
    try:
        return False, process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True, _stop(process)
    except BaseException:  # an interrupt or a termination of this process
        _stop(process)
        raise


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ask it to save and end (it alone: its workers help it), and end it where that takes too long."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(_SECONDS_TO_SAVE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
