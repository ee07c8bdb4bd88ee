"""When a callback logs: at the end of every so many steps, and of the last one."""

from __future__ import annotations

from typing import Any


class LogInterval:
    """Says once for each step that ends an interval that it does; micro-batches between steps never do."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._seen = 0

    def start(self, pl_module: Any) -> None:
        """Begin at the step that the module stands at."""
        self._seen = pl_module.steps_taken

    def step_ended(self, pl_module: Any) -> bool:
        """Whether a step ended since the last call; call it once in each `on_train_batch_end`."""
        ended = pl_module.steps_taken != self._seen
        self._seen = pl_module.steps_taken
        return ended

    def due(self, pl_module: Any) -> bool:
        """Whether the step that just ended also ends an interval."""
        step = pl_module.steps_taken
        return step % self.every == 0 or bool(pl_module.finished)
