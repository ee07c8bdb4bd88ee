"""The record of `litespark bench loop`: every step's time, the ratio, and the losses that must agree."""

from __future__ import annotations

import statistics
from dataclasses import field
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from litespark.metrics.records.base import Count, Measured, Positive, part, record
from litespark.metrics.records.origin import Record
from litespark.metrics.records.run import ModelRecord

GOAL = 1.10
# relative differences of the losses that are still rounding: early by precision, and at the end
_EARLY_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-3}
_FINAL_TOLERANCE = 2e-2


@part
class LossPair:
    """Nats per supervised token on the same validation rows, after the same number of steps."""

    steps: Count
    trainer: Measured
    bare: Measured

    def within(self, tolerance: float) -> bool:
        """Whether the two differ by no more, relative to the bare loop's; without one of them they do."""
        if self.trainer is None or self.bare is None:
            return False
        return abs(self.trainer - self.bare) <= tolerance * abs(self.bare)


@record
class LoopRecord(Record):
    """One measurement; times are milliseconds of single optimizer steps, taken in turns.

    Attributes:
        early, final: losses after the first block and after the last.
    """

    model: ModelRecord
    data: str
    rows_per_step: Count
    micro_batches_per_step: Count
    steps_per_block: Count
    trainer_step_ms: Annotated[list[Positive], Field(min_length=1)]
    bare_step_ms: list[Positive]
    early: LossPair
    final: LossPair
    schema: Literal["litespark.bench.loop/3"] = field(default="litespark.bench.loop/3", kw_only=True)

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

    @model_validator(mode="after")
    def _pairs_whole_blocks(self) -> Self:
        steps = len(self.trainer_step_ms)
        if len(self.bare_step_ms) != steps or steps % self.steps_per_block:
            raise ValueError(
                f"bare_step_ms: got {len(self.bare_step_ms)} times beside {steps}, expected as many, in blocks of "
                f"{self.steps_per_block}"
            )
        if self.environment.precision not in _EARLY_TOLERANCE:
            raise ValueError(
                f"environment.precision: got {self.environment.precision}, expected {' or '.join(_EARLY_TOLERANCE)}"
            )
        return self
