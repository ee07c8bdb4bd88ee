"""One run of a variant: `train.py` in a process of its own, which can be stopped, and continued by the next command."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from litespark.benchmarks.child_process import PYTHON, Ended, run
from litespark.metrics.records.origin import Provenance
from litespark.override_text import hydra_text
from litespark.run.folder import CHECKPOINTS, RECORD
from litespark.run.record import RunRecord
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


def train(training: Training) -> Ended:
    """Start the run, or continue what is in its folder, and wait for it.

    An interrupt or a termination of this process lets that one save and end first; one that is killed takes it along.
    """
    if _finished(training.folder):
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


def tidy(folder: Path) -> None:
    """Remove the state of a run that is in the record; what it logged stays."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _finished(folder: Path) -> bool:
    try:
        return RunRecord.read(folder / RECORD).status == "finished"
    except (OSError, ValueError):
        return False
