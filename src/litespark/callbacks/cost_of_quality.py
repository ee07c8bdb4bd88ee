"""What it took to get to each validation, and the end of training where the bits per byte reach a target."""

import math
from dataclasses import dataclass, replace

import lightning.pytorch as pl

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.energy import EnergyMonitor
from litespark.callbacks.metrics_logger import log_everywhere
from litespark.callbacks.steps import StepCallback
from litespark.callbacks.throughput import ThroughputMonitor
from litespark.metrics import names
from litespark.run.record import ReachedRecord, TargetRecord
from litespark.training.module import TrainingModule


@dataclass(eq=False, repr=False, kw_only=True)
class CostOfQuality(StepCallback):
    """Logs what training took up to each validation, and ends it at the first one at or below the target.

    Comes after the throughput monitor, which logs the validation itself and counts the time. `target` is for the
    record: a resume asks for one of its own, and finds out again whether it is reached.
    """

    target: TargetRecord | None
    throughput: ThroughputMonitor
    energy: EnergyMonitor
    checkpointer: Checkpointer

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def reached(self) -> bool:
        """Whether training ended, or may not begin, because the target is reached."""
        return self.target is not None and self.target.reached is not None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        spent = self._spent(pl_module)
        log_everywhere(pl_module, spent)
        self._compare(trainer, pl_module, spent)

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        # what the checkpoint holds may be the validation that ends the run
        if self.target is not None and module.validated_at == module.steps_taken:
            self._compare(trainer, module, self._spent(module))

    def _compare(self, trainer: pl.Trainer, module: TrainingModule, spent: dict[str, float | None]) -> None:
        target = self.target
        if target is None or target.reached is not None:
            return
        bits = module.validation.get(names.VALIDATION_BITS_PER_BYTE, math.nan)  # of another task
        # a rank that stopped alone would leave the others waiting for ever
        if module.mesh.any(bits <= target.bits_per_byte):
            reached = ReachedRecord(
                step=module.steps_taken,
                tokens=module.tokens_seen,
                bits_per_byte=bits,
                train_seconds=spent[names.TRAIN_SECONDS] or 0.0,
                train_joules=spent[names.TRAIN_JOULES],
                all_in_joules=spent[names.ALL_IN_JOULES],
            )
            self.target = replace(target, reached=reached)
            trainer.should_stop = True
            if self.checkpointer.at_end:
                self.checkpointer.save(trainer, module)

    def _spent(self, module: TrainingModule) -> dict[str, float | None]:
        """What it took to get here, by the names of the metrics; a collective."""
        with self.throughput.phases.during("evaluate"):  # reading the meters takes time
            totals = self.energy.sum_over_ranks(module)
        return {
            names.TRAIN_SECONDS: self.throughput.summary().train_seconds,
            names.TRAIN_JOULES: totals.train_joules,
            names.ALL_IN_JOULES: totals.all_in_joules,
        }
