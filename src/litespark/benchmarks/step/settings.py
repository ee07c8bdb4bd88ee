"""How a benchmark of whole steps is run."""

from __future__ import annotations

from litespark.config.settings import settings
from litespark.ranges import Minutes, Repeats, Seconds


@settings("--", options={"warmup_steps": "--warmup", "loss_rows": "loss_rows", "process_timeout": "process_timeout"})
class StepSettings:
    """The settings beside the config."""

    rounds: Repeats = 3
    """Fresh processes of each variant."""
    warmup_steps: Repeats = 3
    """Steps of each process that are not counted."""
    steps: Repeats = 20
    """Steps of each process that are."""
    loss_rows: Repeats = 8
    """Held-out rows on which each process takes its loss."""
    minutes: Minutes | None = None
    """No process but the first is begun that would end later than this after the start; None: all are."""
    layers: Repeats | None = None
    """Of the model; None: all of them, or as many as fit the device."""
    process_timeout: Seconds = 900.0
    """Seconds after which a process is ended."""
