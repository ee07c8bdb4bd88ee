"""Validation: every so many steps, and when asked.

Lightning counts the interval in micro-batches, and a resume may change how many of them make a step; here it is steps.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from litespark.callbacks.interval import LogInterval


class Validation(Callback):
    """Validates at the end of each step that `every` divides.

    Comes after what closes windows and before what saves checkpoints: the checkpoint of a step holds its validation.

    Args:
        every: steps between two validations; None validates only when asked.
    """

    def __init__(self, every: int | None) -> None:
        self.every = every
        self.interval = LogInterval(every or 1)
        self._batches: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.interval.start(pl_module)
        if self._due(pl_module):  # a stop saves without it
            self.validate(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # whoever stops a run may not wait for long
        if self.interval.step_ended(pl_module) and self._due(pl_module) and not pl_module.stop_agreed:
            self.validate(trainer, pl_module)

    def validate(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """One pass over the validation rows with the weights as they are, logged at the current step; a collective.

        The other callbacks get Lightning's hooks of a validation.
        """
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # not annotated in Lightning
        if self._batches is None:
            self._batches = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        for callback in callbacks:
            callback.on_validation_start(trainer, pl_module)
        for callback in callbacks:
            callback.on_validation_epoch_start(trainer, pl_module)
        pl_module.validate(self._batches)
        for callback in callbacks:
            callback.on_validation_epoch_end(trainer, pl_module)
        for callback in callbacks:
            callback.on_validation_end(trainer, pl_module)

    def _due(self, pl_module: Any) -> bool:
        step = pl_module.steps_taken
        return self.every is not None and 0 < step != pl_module.validated_at and step % self.every == 0
