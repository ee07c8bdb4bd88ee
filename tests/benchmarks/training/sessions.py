"""Sessions whose runs end as told, and the folder with a text that they share."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litespark.benchmarks.child_process import Ended
from litespark.benchmarks.training.runs import Training
from litespark.benchmarks.training.session import TrainingSettings, bench_training
from litespark.benchmarks.training.variants import TO_LOSS, Question, Variant
from litespark.metrics.records.training import TrainingRecord
from litespark.run.checkout import repository
from tests.benchmarks.training.finished_runs import Point, finished, write_run
from tests.cli.tiny_run import tiny

# the budget of `tiny`: 4 steps of 4 sequences of 32 tokens
POINTS: tuple[Point, ...] = ((2, 256, 5.0, 2.5), (4, 512, 10.0, 1.9))


@dataclass
class Session:
    """`ends` gives (variant, seed) another end than `POINTS`: points, changes of the run's record, or how it ended."""

    house: Path
    question: Question = TO_LOSS
    ends: dict[tuple[str, int], Any] = field(default_factory=dict)
    trainings: list[Training] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    now: float = 0.0

    @property
    def started(self) -> list[tuple[str, int]]:
        return [(each.name.split("-")[0], int(each.name.split("-")[1])) for each in self.trainings]

    def launch(self, training: Training) -> Ended:
        self.trainings.append(training)
        self.now += 60.0
        name, seed = self.started[-1]
        end = self.ends.get((name, seed), POINTS)
        if isinstance(end, Ended):
            return end
        newest = max(self.house.glob("results/*/*.json"), key=lambda path: path.stat().st_mtime_ns)
        record = TrainingRecord.read(newest)
        variant = next(each for each in record.variants if each.name == name)
        changes = {
            "target": record.target_bits_per_byte,
            "manifest_hash": (variant.prepared or record.stream).manifest_hash,
            "seed": seed,
        }
        if isinstance(end, dict):
            end, changes = POINTS, changes | end
        (training.folder / "checkpoints" / "step").mkdir(parents=True)
        write_run(training.folder, finished(*end, **changes), *end)
        return Ended("finished")

    def __call__(
        self, *overrides: str, variants: tuple[Variant, ...] = (), target: float | None = 2.0, **settings: Any
    ) -> tuple[TrainingRecord, Path]:
        words = tiny(self.house, trainer__validate_every=2)
        words += [f"budget.target_bpb={target}"] if self.question.to_target and target else []
        settings = {"seeds": (1, 2)} | settings
        return bench_training(
            self.question,
            [*words, *overrides],
            TrainingSettings(**settings),
            variants,
            command=["litespark", "bench", self.question.name],
            script=repository() / "train.py",
            output=self.house / "results",
            say=self.said.append,
            launch=self.launch,
            clock=lambda: self.now,
        )


def cleared(house: Path) -> Path:
    """The folder without what earlier sessions recorded and ran; what they prepared stays."""
    shutil.rmtree(house / "results", ignore_errors=True)
    for runs in house.glob("logs/*/runs"):
        shutil.rmtree(runs)
    return house
