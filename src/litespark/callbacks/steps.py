"""Hooks of whole optimizer steps, with the module that a run has; Lightning calls back after micro-batches."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from litespark.training.module import TrainingModule


class StepCallback(Callback):
    """A callback of our runs: override `train_started` and `step_ended`.

    Args:
        every: steps between two that are `due`, as is the last one.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self._seen = 0

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """Before the first step of this process."""

    def step_ended(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """After an optimizer step, skipped ones included."""

    def due(self, module: TrainingModule) -> bool:
        """Whether the step that just ended also ends an interval."""
        return module.steps_taken % self.every == 0 or module.finished

    def on_train_start(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        self._seen = pl_module.steps_taken
        self.train_started(trainer, pl_module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.steps_taken != self._seen:
            self._seen = pl_module.steps_taken
            self.step_ended(trainer, pl_module)
