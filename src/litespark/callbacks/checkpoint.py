"""Saves checkpoints at the end of a step: every so many steps, at the end, and when asked to stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from litespark.callbacks import checkpoint_folder
from litespark.callbacks.phases import Phases
from litespark.device import device_of


class Checkpointer(Callback):
    """Writes `checkpoints/step-…` folders that are valid or do not count.

    Args:
        folder: the run's checkpoint folder.
        every_steps: optimizer steps between checkpoints; None saves only at the end.
        at_end: save after the last step.
        keep: how many of the newest to keep.
        about: what the seal says of the run.
        phases: told when the run is saving, so that its time and joules are not training's.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_steps: int | None,
        keep: int,
        about: Mapping[str, Any],
        phases: Phases,
        at_end: bool = True,
    ) -> None:
        for name, value in (("every_steps", every_steps), ("keep", keep)):
            if value is not None and value < 1:
                raise ValueError(f"callbacks.checkpoint.{name}: got {value}, expected at least 1")
        self.folder = folder
        self.every_steps = every_steps
        self.at_end = at_end
        self.keep = keep
        self.about = about
        self.phases = phases
        self.saved_step: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.saved_step = pl_module.steps_taken

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        due = self.every_steps is not None and pl_module.steps_taken % self.every_steps == 0
        if due or (self.at_end and pl_module.finished):
            self.save(trainer, pl_module)

    def save(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Save now, unless this step is saved already. A collective; call it between steps only."""
        step = pl_module.steps_taken
        if step == self.saved_step:
            return
        device_of(pl_module.device).synchronise()  # what is still computing belongs to the phase before
        with self.phases.during("checkpoint"):
            pl_module.require_finite_weights()
            # weights and two moments in fp32, with some room
            expected = int(1.1 * 12 * sum(p.numel() for p in pl_module.model.parameters()))
            unfinished = self._begin(trainer, step, expected)
            try:
                self._write(trainer, pl_module, unfinished, step)
            except OSError as error:
                raise checkpoint_folder.CheckpointError(
                    f"the checkpoint of step {step} could not be written in {self.folder}: {error}. The earlier "
                    "checkpoints are kept; correct this and resume"
                ) from error
            pl_module.host_group.wait()
        self.saved_step = step

    def _write(self, trainer: pl.Trainer, pl_module: Any, unfinished: Path, step: int) -> None:
        # weights and optimizer state; what Lightning calls weights_only is something else
        trainer.save_checkpoint(unfinished / checkpoint_folder.STATE, weights_only=False)
        if trainer.is_global_zero:
            for logger in trainer.loggers:  # a resume keeps the rows up to this step
                logger.save()
            about = {**self.about, "tokens": pl_module.tokens_seen, "world_size": trainer.world_size}
            checkpoint_folder.seal(unfinished, step, about)
            checkpoint_folder.prune(self.folder, step, self.keep)

    def _begin(self, trainer: pl.Trainer, step: int, expected_bytes: int) -> Path:
        """The folder to write into; what goes wrong on rank 0 is raised on every rank, so that none waits for it."""
        answer: Path | checkpoint_folder.CheckpointError | None = None
        if trainer.is_global_zero:
            try:
                answer = checkpoint_folder.begin(self.folder, step, expected_bytes)
            except checkpoint_folder.CheckpointError as error:
                answer = error
        answer = trainer.strategy.broadcast(answer)
        if isinstance(answer, checkpoint_folder.CheckpointError):
            raise answer
        assert answer is not None
        return answer
