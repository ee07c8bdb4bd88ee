"""Joules: each rank reads its own devices, the sums over ranks are logged, saved and journaled.

A rank that can read nothing joins every sum: it adds device time and no joules, which lowers the coverage.
"""

from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl

from litespark.callbacks.metrics_logger import log_everywhere
from litespark.callbacks.phases import Phases
from litespark.callbacks.steps import StepCallback
from litespark.metrics import names
from litespark.metrics.energy import EnergyJournal, EnergyTotals, ratio
from litespark.metrics.energy_by_phase import EnergyByPhase
from litespark.metrics.records.base import parse
from litespark.metrics.records.origin import utc_now
from litespark.training.module import TrainingModule


class EnergyMonitor(StepCallback):
    """Books energy by phase, logs J/token of windows that are long enough to be read, and keeps a journal of the sums.

    Comes after the throughput monitor, which has synchronised the device when a window closes.
    """

    def __init__(self, by_phase: EnergyByPhase, *, log_every: int, phases: Phases, journal: EnergyJournal) -> None:
        super().__init__(log_every)
        self.by_phase = by_phase
        self.meter = by_phase.meter
        self.journal = journal
        self.totals = EnergyTotals()
        phases.listen(lambda before, after: by_phase.switch(after))

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        # start-up is no part of the first window: its length and its power are those of training
        self.by_phase.begin_window()

    def step_ended(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        if module.mesh.is_first:  # the counts of a step are over all ranks already
            self.by_phase.add_tokens(module.last_step[0])
        if not self.due(module):
            return
        (mine, used), mesh = self.by_phase.window(), module.mesh
        totals, seconds = EnergyTotals.from_vector(mesh.sum(used.to_vector())), min(mesh.gather(mine))
        self.note_totals(module)
        values: dict[str, float | None] = {
            names.TRAIN_JOULES: self.totals.train_joules,
            names.ALL_IN_JOULES: self.totals.all_in_joules,
        }
        if module.examples_seen:
            values[names.JOULES_PER_EXAMPLE] = ratio(self.totals.learning_joules, module.examples_seen)
        if module.rolls_out:
            values[names.ROLLOUT_JOULES] = self.totals.joules("rollout")
        if seconds >= self.by_phase.minimum_window_seconds:
            self.by_phase.begin_window()
            values[names.JOULES_PER_TOKEN] = totals.joules_per_token_train
            values[names.POWER_WATTS] = ratio(totals.all_in_joules, seconds)
        log_everywhere(module, values)

    def note_totals(self, module: TrainingModule) -> None:
        """Write the sums over ranks into the journal; a collective."""
        self.sum_over_ranks(module)
        if module.mesh.is_first and self.totals.all_in_joules is not None:
            self.journal.append(self.totals, utc_now())

    def sum_over_ranks(self, module: TrainingModule) -> EnergyTotals:
        """Read the counters and sum the totals over ranks; a collective."""
        self.by_phase.book()
        self.totals = EnergyTotals.from_vector(module.mesh.sum(self.by_phase.totals.to_vector()))
        return self.totals

    def on_save_checkpoint(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: TrainingModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["litespark_energy"] = asdict(self.sum_over_ranks(pl_module))

    def on_load_checkpoint(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: TrainingModule, checkpoint: dict[str, Any]
    ) -> None:
        self.totals = parse(EnergyTotals, checkpoint["litespark_energy"])
        # the sums of the run go on in one place
        if pl_module.mesh.is_first:
            self.by_phase.resume(self.totals, self.journal.last())
