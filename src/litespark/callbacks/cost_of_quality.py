"""What it took to get to each validation, and the end of training where the bits per byte reach a target.

Train seconds and joules are logged beside each validation, so that quality can be drawn over what was paid for it.
"""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.energy import EnergyMonitor
from litespark.callbacks.metrics_logger import log_everywhere
from litespark.callbacks.mfu import ThroughputMonitor
from litespark.callbacks.phases import Phases
from litespark.metrics import names
from litespark.metrics.records.run import RunRecord
from litespark.metrics.records.run_target import ReachedRecord, TargetRecord


class CostOfQuality(Callback):
    """Logs what training took up to each validation, and ends it at the first one at or below the target.

    Comes after the throughput monitor, which logs the validation itself and counts the time.

    Args:
        target_bpb: bits per byte at which to stop; None never stops.
        record: the target and where it was reached are written into it.
        throughput, energy: where the figures come from.
        checkpointer: saves where training ends.
        phases: told that what is done here is not training.
    """

    def __init__(
        self,
        *,
        target_bpb: float | None,
        record: RunRecord,
        throughput: ThroughputMonitor,
        energy: EnergyMonitor,
        checkpointer: Checkpointer,
        phases: Phases,
    ) -> None:
        self.record = record
        self.throughput = throughput
        self.energy = energy
        self.checkpointer = checkpointer
        self.phases = phases
        # a resume asks for a target of its own, and finds out again whether it is reached
        record.target = None if target_bpb is None else TargetRecord(target_bpb)

    @property
    def reached(self) -> bool:
        """Whether training ended, or may not begin, because the target is reached."""
        return self.record.target is not None and self.record.target.reached is not None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # what the checkpoint holds may be the validation that ends the run
        self.compare(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        found = self._found(pl_module)
        values = {
            names.TRAIN_SECONDS: found.train_seconds,
            names.TRAIN_JOULES: found.train_joules,
            names.ALL_IN_JOULES: found.all_in_joules,
        }
        log_everywhere(trainer, values, found.step)
        self._compare(trainer, pl_module, found)

    def compare(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """End the training where this step has a validation, and it is at or below the target."""
        if self.record.target is not None and pl_module.validated_at == pl_module.steps_taken:
            self._compare(trainer, pl_module, self._found(pl_module))

    def _compare(self, trainer: pl.Trainer, pl_module: Any, found: ReachedRecord) -> None:
        target = self.record.target
        if target is None or target.reached is not None:
            return
        # the metrics are sums over all ranks, so all of them say the same; one that stopped alone would leave the
        # others waiting for ever
        (votes,) = pl_module.host_group.sum([int(found.bits_per_byte <= target.bits_per_byte)])
        if votes:
            target.reached = found
            trainer.should_stop = True
            if self.checkpointer.at_end:
                self.checkpointer.save(trainer, pl_module)

    def _found(self, pl_module: Any) -> ReachedRecord:
        """The last validation, and what it took; a collective."""
        with self.phases.during("evaluate"):  # reading the meters takes time
            totals = self.energy.sum_over_ranks()
        return ReachedRecord(
            step=pl_module.steps_taken,
            tokens=pl_module.tokens_seen,
            bits_per_byte=pl_module.validation.get(names.VALIDATION_BITS_PER_BYTE, math.nan),  # of another task
            train_seconds=self.throughput.summary().train_seconds,
            train_joules=totals.train_joules,
            all_in_joules=totals.all_in_joules,
        )
