"""Sessions whose runs end as told, the folder with a text that they share, and run folders written by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litespark.benchmarks.training.runs import Training
from litespark.benchmarks.training.session import TrainingSettings, bench_training
from litespark.benchmarks.training.variants import TO_LOSS, Question, Variant
from litespark.child_process import Ended
from litespark.metrics import names
from litespark.metrics.records.training import TrainingRecord
from litespark.run.checkout import repository
from litespark.run.record import (
    DataRecord,
    EnergyRecord,
    ModelRecord,
    ReachedRecord,
    RunRecord,
    TargetRecord,
    ThroughputRecord,
)
from tests.cli.tiny_run import tiny
from tests.metrics.records.hand_made import make_record

# (step, tokens, train seconds, bits per byte)
Point = tuple[int, int, float, float]

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
        stream = variant.prepared or record.stream
        changes = {"target": record.target_bits_per_byte, "manifest_hash": stream.manifest_hash, "seed": seed}
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
        return bench_training(
            self.question, [*words, *overrides], TrainingSettings(**{"seeds": (1, 2)} | settings), variants,
            command=["litespark", "bench", self.question.name], script=repository() / "train.py",
            output=self.house / "results", say=self.said.append, launch=self.launch, clock=lambda: self.now,
        )  # fmt: skip


def cleared(house: Path) -> Path:
    """The folder without what earlier sessions recorded and ran; what they prepared stays."""
    shutil.rmtree(house / "results", ignore_errors=True)
    for runs in house.glob("logs/*/runs"):
        shutil.rmtree(runs)
    return house


def finished(
    *points: Point,
    manifest_hash: str,
    target: float | None = None,
    seed: int = 1,
    length: int = 32,
    watts: float | None = None,
) -> RunRecord:
    """The record of a run with these validations, which ends at the first that reaches the target."""
    step, tokens, seconds, bits = points[-1]
    energy = EnergyRecord(reason="no counter here")
    joules = all_in = None
    if watts is not None:
        joules, all_in = watts * seconds, 2 * watts * seconds
        energy = EnergyRecord(method="counter", train_joules=joules, all_in_joules=3 * joules)
    reached = ReachedRecord(step, tokens, bits, seconds, joules, all_in)
    return make_record(
        seed=seed,
        status="finished",
        model=ModelRecord("tiny", 10, 8, 48.5, 50.0, length),
        data=DataRecord("text", manifest_hash, 256, 1000, 100, 3.5),
        throughput=ThroughputRecord(tokens=tokens),
        target=None if target is None else TargetRecord(target, reached if bits <= target else None),
        energy=energy,
    )


def write_run(folder: Path, record: RunRecord, *points: Point, watts: float | None = None) -> Path:
    """Write a record and the rows of its validations, with a row of training between them."""
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder / "run.json")
    lines = []
    for step, tokens, seconds, bits in points:
        lines.append({"step": step - 1, names.PROGRESS_TOKENS: tokens - 1, names.TRAIN_LOSS: 3.0})
        row = {"step": step, names.PROGRESS_TOKENS: tokens, names.TRAIN_SECONDS: seconds}
        row[names.VALIDATION_BITS_PER_BYTE] = bits
        lines.append(row if watts is None else row | {names.TRAIN_JOULES: watts * seconds})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
