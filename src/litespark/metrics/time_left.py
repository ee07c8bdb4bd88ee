"""How long the rest of a run takes."""

from collections import deque

SECONDS_OF_RATE = 60.0


class TimeLeft:
    """How long the rest takes at the rate of the last minute of training.

    Validations and checkpoints are added at their share so far, so that the estimate does not jump at each of them.
    """

    def __init__(self, tokens: int, now: float) -> None:
        self.paused = 0.0
        self._started = now
        self._paused_at: float | None = None
        # (seconds of training, tokens) at the ends of steps
        self._marks: deque[tuple[float, int]] = deque([(0.0, tokens)])

    def pause(self, now: float) -> None:
        """Something else than training begins; no effect within a pause."""
        self._paused_at = now if self._paused_at is None else self._paused_at

    def go_on(self, now: float) -> None:
        if self._paused_at is not None:
            self.paused += now - self._paused_at
            self._paused_at = None

    def step(self, tokens: int, now: float) -> None:
        """So many tokens of the run are trained on; no effect within a step."""
        if tokens == self._marks[-1][1]:
            return
        trained = now - self._started - self.paused
        self._marks.append((trained, tokens))
        while trained - self._marks[1][0] >= SECONDS_OF_RATE:  # a step that takes longer keeps its own beginning
            self._marks.popleft()

    def seconds(self, tokens_left: int) -> float | None:
        """Until so many tokens more are trained on; None before the first step."""
        (first, before), (last, after) = self._marks[0], self._marks[-1]
        if after <= before or last <= first:
            return None
        return tokens_left * (last - first) / (after - before) * (1 + self.paused / last)
