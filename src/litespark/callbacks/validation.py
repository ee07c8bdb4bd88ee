"""Validation: every so many steps, where Lightning counts micro-batches, and when asked."""

from collections.abc import Iterable

import lightning.pytorch as pl

from litespark.callbacks.steps import StepCallback
from litespark.data.batch import TokenBatch
from litespark.training.module import TrainingModule


class Validation(StepCallback):
    """Validates at the end of each step that `interval` divides; None: only when asked. `at_start`: before the first
    step too.

    Comes after what closes windows and before what saves checkpoints: those of a step hold its validation.
    """

    def __init__(self, interval: int | None, *, at_start: bool = False) -> None:
        super().__init__()
        self.interval = interval
        self.at_start = at_start
        self._batches: Iterable[TokenBatch] | None = None

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        if self._missing(module):  # a stop saves without it
            self.validate(trainer, module)

    def step_ended(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        if self._missing(module) and not module.stop_agreed:  # a run that is stopped may have little time
            self.validate(trainer, module)

    def validate(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """One pass with the weights as they are, with Lightning's hooks, logged at the current step; a collective."""
        if self._batches is None:
            self._batches = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]

        def call(*hooks: str) -> None:
            for hook in hooks:
                for callback in trainer.callbacks:  # type: ignore[attr-defined]  # not annotated in Lightning
                    getattr(callback, hook)(trainer, module)

        call("on_validation_start", "on_validation_epoch_start")
        module.validate(self._batches)
        call("on_validation_epoch_end", "on_validation_end")

    def _missing(self, module: TrainingModule) -> bool:
        step = module.steps_taken
        if step == module.validated_at:
            return False
        return self.at_start if step == 0 else self.interval is not None and step % self.interval == 0
