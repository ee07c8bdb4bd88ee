"""The record of `litespark bench loop`: every step's time, the ratio, and the losses that must agree."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from litespark.metrics.records.run import EnvironmentRecord, ModelRecord
from litespark.metrics.records.sealing import SealedRecord
from litespark.metrics.records.strict_json import wrong

SCHEMA = "litespark.bench.loop/2"
GOAL = 1.10
# relative differences of the losses that are still rounding: early by precision, and at the end
_EARLY_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-3}
_FINAL_TOLERANCE = 2e-2


@dataclass(frozen=True)
class LossPair:
    """Nats per supervised token on the same validation rows, after the same number of steps."""

    steps: int
    trainer: float
    bare: float

    def within(self, tolerance: float) -> bool:
        """Whether the two differ by no more, relative to the bare loop's; NaN never does."""
        return abs(self.trainer - self.bare) <= tolerance * abs(self.bare)


@dataclass(frozen=True)
class LoopRecord(SealedRecord):
    """One measurement; times are milliseconds of single optimizer steps, taken in turns.

    Attributes:
        overrides: of the config, as the user gave them.
        early, final: losses after the first block and after the last.
    """

    schema = SCHEMA

    time: str
    git_commit: str | None
    git_dirty: bool | None
    overrides: list[str]
    environment: EnvironmentRecord
    model: ModelRecord
    data: str
    rows_per_step: int
    micro_batches_per_step: int
    steps_per_block: int
    trainer_step_ms: list[float]
    bare_step_ms: list[float]
    early: LossPair
    final: LossPair

    @property
    def ratios(self) -> list[float]:
        """Trainer's time over the bare loop's, block by block."""
        ours, bare = (
            [sum(times[start : start + self.steps_per_block]) for start in range(0, len(times), self.steps_per_block)]
            for times in (self.trainer_step_ms, self.bare_step_ms)
        )
        return [our / their for our, their in zip(ours, bare, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def losses_agree(self) -> bool:
        """Whether the two trained alike; where they did not, their times say nothing."""
        return self.early.within(_EARLY_TOLERANCE[self.environment.precision]) and self.final.within(_FINAL_TOLERANCE)

    def check(self) -> None:
        """The rules that types do not express.

        Raises:
            RecordError: one is broken.
        """
        for name, times in (("trainer_step_ms", self.trainer_step_ms), ("bare_step_ms", self.bare_step_ms)):
            if not times or len(times) != len(self.trainer_step_ms) or min(times) <= 0:
                raise wrong(name, f"{len(times)} times", f"{len(self.trainer_step_ms)} times, at least one, above 0")
        if self.environment.precision not in _EARLY_TOLERANCE:
            raise wrong("environment.precision", self.environment.precision, f"one of {', '.join(_EARLY_TOLERANCE)}")
        if self.steps_per_block <= 0 or len(self.bare_step_ms) % self.steps_per_block:
            raise wrong("steps_per_block", self.steps_per_block, f"a divisor of {len(self.bare_step_ms)} steps")
