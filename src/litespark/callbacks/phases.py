"""What the run is doing: training, evaluating, saving, or none of them. Instruments are told when it changes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from litespark.metrics.energy import Phase


class Phases:
    """The current phase, and what is called when it changes. Every rank changes phase at the same points."""

    def __init__(self) -> None:
        self.current: Phase = "idle"
        self._listeners: list[Callable[[Phase, Phase], None]] = []

    def listen(self, listener: Callable[[Phase, Phase], None]) -> None:
        """Call `listener(before, after)` at each change, after everything before it was done on the device."""
        self._listeners.append(listener)

    def enter(self, phase: Phase) -> None:
        before, self.current = self.current, phase
        if before != phase:
            for listener in self._listeners:
                listener(before, phase)

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        before = self.current
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)
