"""The run's own metrics: `metrics.jsonl`, a row a step; a killed run loses at most the open one."""

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger

from litespark.atomic import write_whole
from litespark.mesh import Mesh
from litespark.metrics import names
from litespark.run.folder import METRICS
from litespark.run.metric_rows import read_metrics
from litespark.training.module import TrainingModule


def log_everywhere(module: TrainingModule, values: Mapping[str, float | None]) -> None:
    """Hand every logger the `values` after this step; what is None or not finite was not measured and is absent."""
    measured = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    if measured and module.mesh.is_first:
        for logger in module.trainer.loggers:
            logger.log_metrics(measured, module.steps_taken)


class MetricsLogger(Logger):
    """Writes rows of metrics into the run's folder; `latest` has the last value of each."""

    def __init__(self, folder: Path, mesh: Mesh | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.mesh = mesh or Mesh()
        self.latest: dict[str, float] = {}
        self._row: dict[str, Any] = {}
        self.progress: Callable[[], tuple[int, int]] | None = None
        """Steps taken and tokens seen, for what Lightning logs by a count of its own."""

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing, which Lightning asks of every logger: the run's folder holds the whole config."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self.mesh.is_first:
            return
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        if step != self._row.get("step") and names.PROGRESS_TOKENS not in metrics and self.progress is not None:
            # `self.log` of a callback of the user's own; Lightning's step is that of the batch, from 0
            step, tokens = self.progress()
            metrics = {names.PROGRESS_TOKENS: tokens, **metrics}
        if step != self._row.get("step"):
            self._close_row()
            self._row = {"step": step, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        self._row.update(metrics)
        self.latest.update(metrics)

    def save(self) -> None:
        self._close_row()

    def finalize(self, status: str) -> None:
        self._close_row()

    def forget_after(self, step: int) -> None:
        """Drop the rows of steps beyond `step`; the latest values are those of the rest."""
        if not (self.mesh.is_first and (self.folder / METRICS).exists()):
            return
        kept = [row for row in read_metrics(self.folder) if row["step"] <= step]
        for row in kept:
            self.latest.update({name: value for name, value in row.items() if "/" in name})
        write_whole(self.folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept))

    def _close_row(self) -> None:
        if self._row:
            with (self.folder / METRICS).open("a") as file:
                file.write(json.dumps(self._row) + "\n")
            self._row = {}
