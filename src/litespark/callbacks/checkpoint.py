"""Saves checkpoints at the end of a step: every so many steps, at the end, and when asked to stop."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from litespark.callbacks.phases import Phases
from litespark.callbacks.steps import StepCallback
from litespark.device import device_of
from litespark.models.parallel_layers import parts_of
from litespark.training.checkpoint import state
from litespark.training.checkpoint.background import Background
from litespark.training.checkpoint.keep import VALIDATION, Keep
from litespark.training.module import TrainingModule

log = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class Checkpointer(StepCallback):
    """Writes `checkpoints/step-…` folders that are valid or do not count."""

    folder: Path
    _: KW_ONLY
    every_steps: int | None  # optimizer steps between checkpoints; None saves only at the end
    keep: int  # how many of the newest
    keep_every: int | None = None  # and those at multiples of so many steps
    best: str | None = None  # and the best by this metric of the validations
    best_is: Literal["lowest", "highest"] = "lowest"
    about: Mapping[str, Any]  # what the seal says of the run
    phases: Phases
    at_end: bool = True
    in_background: bool = False  # training goes on while all but the last are written
    own: Sequence[Callback] = ()  # of the user's own; a state of theirs that could not be read back is left out
    saved_step: int | None = field(default=None, init=False)
    _background: Background | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__init__()

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self.saved_step = module.steps_taken

    def step_ended(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        if self._background is not None:
            self._background.poll()
        if self.at_end and module.finished:
            self.save(trainer, module)
        elif self.every_steps is not None and module.steps_taken % self.every_steps == 0:
            self._save(trainer, module, in_background=self.in_background)

    def on_train_end(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        if self.at_end:  # a callback of the user's own may have ended the training early
            self.save(trainer, pl_module)
        self._wait()

    def on_exception(self, trainer: pl.Trainer, pl_module: TrainingModule, exception: BaseException) -> None:  # type: ignore[override]
        if self._background is not None:
            self._background.end()

    def save(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """Save now, unless this step is saved already; it is when this returns. A collective, between steps only."""
        self._save(trainer, module, in_background=False)
        self._wait()

    def _wait(self) -> None:
        if self._background is not None:
            with self.phases.during("checkpoint"):
                self._background.wait()

    def _save(self, trainer: pl.Trainer, module: TrainingModule, *, in_background: bool) -> None:
        step = module.steps_taken
        if step == self.saved_step:
            return
        self._wait()
        device_of(module.device).synchronise()  # what is still computing belongs to the phase before
        keep = Keep(self.keep, self.keep_every, self.best, highest=self.best_is == "highest")
        with self.phases.during("checkpoint"):
            module.require_finite_weights()
            # `Trainer.save_checkpoint` would write it too, and hang the other ranks where the disk refuses
            content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            about = {**self.about, "tokens": module.tokens_seen, "world_size": module.mesh.world_size}
            if module.validated_at == step:
                about[VALIDATION] = self._measured(module)

            def ready() -> None:
                self._leave_out_foreign(content["callbacks"])
                for logger in trainer.loggers:  # a resume keeps the rows up to this step
                    logger.save()

            module.mesh.from_first(ready, "the logs to be written")
            parts = parts_of(module)
            if in_background:
                self._background = self._background or Background(module.mesh)
                self._background.start(state.prepare(module.mesh, self.folder, step, content, about, keep, parts))
            else:
                state.write(module.mesh, self.folder, step, content, about, keep, parts)
        self.saved_step = step

    def _measured(self, module: TrainingModule) -> dict[str, float]:
        """The metrics of the validation in this step; a ValueError where the one that is looked for is not there."""
        values = {name.partition("/")[2]: value for name, value in module.validation.items()}
        if self.best is not None and self.best not in values:
            raise ValueError(
                f"callbacks.checkpoint_best: got {self.best}, expected a metric of the validation; set it to one of "
                f"{', '.join(sorted(values))}"
            )
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _leave_out_foreign(self, states: dict[str, Any]) -> None:
        for callback in self.own:
            if kinds := state.foreign(states.get(callback.state_key)):
                del states[callback.state_key]
                log.warning(
                    "the state of %s is not saved: it holds %s, and a checkpoint takes tensors, numbers, texts, and "
                    "lists and dicts of them; a resume starts without it",
                    type(callback).__name__,
                    ", ".join(kinds),
                )
