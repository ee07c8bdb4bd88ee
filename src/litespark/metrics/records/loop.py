"""The record of `litespark bench loop`: every step's time, the ratio, and the losses that must agree."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litespark.metrics.records.run import EnvironmentRecord, ModelRecord
from litespark.metrics.records.sealing import SealedRecord, content_of, naming, read_values, unsealed
from litespark.metrics.records.strict_json import RecordError, decode, wrong

SCHEMA = "litespark.bench.loop/2"
# without a seal, with figures that follow from the others
_FIRST_SCHEMA = "litespark.bench.loop/1"
_FOLLOWING = ("ratios", "ratio_median", "goal", "losses_agree")
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

    @classmethod
    def read(cls, path: Path) -> LoopRecord:
        """The record in a file, of this schema or the first one.

        Raises:
            RecordError: it is not such a record, or it contradicts itself.
            OSError: the file cannot be read.
        """
        with naming(path, "loop"):
            values = read_values(path)
            if values.get("schema") == _FIRST_SCHEMA:
                record = _read_first(values)
            else:
                record = unsealed(values, cls, SCHEMA)
            record.check()
            return record

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

    def table(self) -> str:
        """The figures for a reader."""
        environment, model = self.environment, self.model
        losses = [self.early] if self.early == self.final else [self.early, self.final]
        lines = [
            f"{model.name}, {model.parameters / 1e6:.2f} M parameters, {self.rows_per_step} rows of "
            f"{model.sequence_length} tokens a step, {environment.precision}, "
            f"{', '.join(device.name for device in environment.devices)}",
            f"{'':10}  {'ms/step':>9}" + "".join(f"  {f'loss after {pair.steps} steps':>20}" for pair in losses),
        ]
        for name, times in (("trainer", self.trainer_step_ms), ("bare loop", self.bare_step_ms)):
            after = [pair.trainer if name == "trainer" else pair.bare for pair in losses]
            lines.append(f"{name:10}  {statistics.median(times):9.2f}" + "".join(f"  {loss:20.6f}" for loss in after))
        if not self.losses_agree:
            return "\n".join(
                [*lines, "The losses DIFFER: the two did not train alike, so their times are not compared."]
            )
        verdict = "met" if self.ratio <= GOAL else "NOT met"
        lines.append(
            f"ratio {self.ratio:.3f} per step, median of {len(self.ratios)} blocks of {self.steps_per_block} steps "
            f"({min(self.ratios):.3f} to {max(self.ratios):.3f}); goal at most {GOAL:.2f}: {verdict}"
        )
        return "\n".join(lines)


def _read_first(values: dict[str, Any]) -> LoopRecord:
    """A record of the first schema, whose stored figures have to be those that follow from its times and losses."""
    stored = {name: values.pop(name, None) for name in _FOLLOWING}
    record: LoopRecord = decode(content_of(values), LoopRecord, "")
    record.check()
    ratios, median = stored["ratios"], stored["ratio_median"]
    if not isinstance(ratios, list) or len(ratios) != len(record.ratios):
        raise wrong("ratios", ratios, f"{len(record.ratios)} of them")
    figures = list(zip([*ratios, median], [*record.ratios, record.ratio], strict=True))
    # sums of floats differ in the last digit between versions of Python
    if not all(isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-9) for found, expected in figures):
        raise RecordError(
            f"ratios, ratio_median: got {ratios}, {median}; {record.ratios}, {record.ratio} follow from the times"
        )
    if stored["losses_agree"] is not record.losses_agree:
        raise wrong("losses_agree", stored["losses_agree"], f"{record.losses_agree}, which follows from the losses")
    return record
