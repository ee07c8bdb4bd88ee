"""What a preparation says while it works, on standard error: documents, tokens, MB/s of text, time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from litespark.data.preparation.unit import DOCUMENTS, SOURCE_BYTES, TEXT_BYTES, TOKENS

LOG_SECONDS = 60.0
"""Between lines in a log."""


class Display:
    """One line that follows the meters of the units, and lines that stay.

    Where standard error is no terminal, such as the log of a batch job, a line a minute says how far it is.

    Args:
        name: what is prepared.
        show: False: says nothing at all.
    """

    def __init__(self, name: str, *, show: bool) -> None:
        self.name = name
        self._show = show
        self._console = Console(stderr=True)
        self._ended = threading.Event()
        self._clock: threading.Thread | None = None
        self._bars = _Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not (show and self._console.is_terminal),
        )

    def __enter__(self) -> Display:
        self._bars.start()
        if self._show and not self._console.is_terminal:
            self._clock = threading.Thread(target=self._say_how_far, daemon=True)
            self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        self._ended.set()
        if self._clock is not None:
            self._clock.join()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._show:
            self._console.print(f"{self.name}: {text}", highlight=False, soft_wrap=True, markup=False)

    def _say_how_far(self) -> None:
        while not self._ended.wait(LOG_SECONDS):
            if line := self._bars.in_words():
                self.say(line)

    def stage(self, doing: str) -> None:
        """A stage without figures."""
        self._bars.follow(self.name, doing, None)

    def follow(self, doing: str, meters: NDArray[np.int64], numbers: Iterable[int], total_bytes: int) -> None:
        """A stage that takes units of together `total_bytes` of source text through their meters."""
        self._bars.follow(self.name, doing, _Figures(meters, np.array(list(numbers), dtype=np.int64), total_bytes))


class _Figures:
    """Sums of the meters of some units since the stage began."""

    def __init__(self, meters: NDArray[np.int64], numbers: NDArray[np.int64], total_bytes: int) -> None:
        self.total = total_bytes
        self._meters = meters
        self._numbers = numbers
        self._began = time.monotonic()

    def now(self) -> tuple[int, str]:
        """(bytes of the source done, the figures in words)."""
        sums = self._meters[self._numbers].sum(axis=0)
        seconds = max(time.monotonic() - self._began, 1e-9)
        tokens = f"  {sums[TOKENS]:,} tokens" if sums[TOKENS] else ""
        text = f"  {sums[DOCUMENTS]:,} documents{tokens}  {sums[TEXT_BYTES] / 1e6 / seconds:.1f} MB/s"
        return int(sums[SOURCE_BYTES]), text


class _Bars(Progress):
    """A progress bar that asks the meters whenever it is drawn."""

    _task: TaskID | None = None
    _figures: _Figures | None = None
    _doing = ""
    _began = 0.0

    def follow(self, name: str, doing: str, figures: _Figures | None) -> None:
        """Show another stage."""
        self._figures = None  # the bar is drawn by another thread, too
        self._doing, self._began = doing, time.monotonic()
        if self._task is not None:
            self.remove_task(self._task)
        total = None if figures is None else max(figures.total, 1)
        self._task = self.add_task(f"{name}: {doing}", total=total, figures="")
        self._figures = figures

    def in_words(self) -> str | None:
        """The stage and its figures, or for how long it has gone on; None before the first."""
        if not self._doing:
            return None
        if (figures := self._figures) is None:
            return f"{self._doing}, for {time.monotonic() - self._began:.0f} s"
        done, text = figures.now()
        return f"{self._doing} {done / max(figures.total, 1):.0%}{text}"

    def get_renderables(self) -> Iterable[RenderableType]:
        """Called for each drawing."""
        figures, task = self._figures, self._task
        if figures is not None and task is not None:
            done, text = figures.now()
            self.update(task, completed=done, figures=text)
        yield from super().get_renderables()
