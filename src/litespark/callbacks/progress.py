"""The progress bar: loss, tokens/s, MFU, J/token (or why there is none) and the time that is left."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from litespark.callbacks.metrics_logger import MetricsLogger
from litespark.metrics import names


class ProgressBar(Callback):
    """Shows the last logged metrics beside a bar over the steps; without a terminal, a line now and then.

    Args:
        metrics: the logger whose latest values are shown.
        no_energy: why energy cannot be read here, or None where it can.
        seconds_between_lines: where the output is not a terminal.
    """

    def __init__(self, metrics: MetricsLogger, *, no_energy: str | None, seconds_between_lines: float = 10.0) -> None:
        self.metrics = metrics
        self.no_energy = no_energy
        self.seconds_between_lines = seconds_between_lines
        self.console = Console(file=sys.stderr, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._started = self._last_line = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._started = self._last_line = time.monotonic()
        self._first_step = pl_module.steps_taken
        if not trainer.is_global_zero:
            return
        if self.no_energy:
            self.console.print(f"J/token: not measured, {self.no_energy}", style="yellow", highlight=False)
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("train"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[status]}"),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                "train", total=pl_module.planned_steps, completed=pl_module.steps_taken, status=""
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not trainer.is_global_zero:
            return
        step, steps = pl_module.steps_taken, pl_module.planned_steps
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, total=steps, status=self.status(step, steps))
        elif time.monotonic() - self._last_line >= self.seconds_between_lines or step == steps:
            self._last_line = time.monotonic()
            self.console.print(f"step {step}/{steps}  {self.status(step, steps)}", highlight=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stop()

    def status(self, step: int, steps: int) -> str:
        """One line of the newest values; absent ones are left out, absent energy is said."""
        latest = self.metrics.latest
        parts = []
        if (loss := latest.get(names.TRAIN_LOSS)) is not None:
            parts.append(f"loss {loss:.3f}")
        if (validation := latest.get(names.VALIDATION_LOSS)) is not None:
            parts.append(f"validation {validation:.3f}")
        if (speed := latest.get(names.TOKENS_PER_SECOND)) is not None:
            parts.append(f"{speed:,.0f} tokens/s")
        if (mfu := latest.get(names.MFU_CAUSAL)) is not None:
            parts.append(f"MFU {mfu:.1%}")
        elif (share := latest.get(names.MFU_MEASURED_PEAK)) is not None:
            parts.append(f"MFU {share:.1%} of the measured peak")
        if (joules := latest.get(names.JOULES_PER_TOKEN)) is not None:
            parts.append(f"{joules:.3g} J/token")
        else:
            parts.append("J/token n/a")
        taken = step - self._first_step
        if taken > 0:
            left = (time.monotonic() - self._started) / taken * (steps - step)
            parts.append(f"{_duration(left)} left")
        return " · ".join(parts)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
