"""The progress of a preparation, on standard error: documents, tokens, MB/s of text, time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from litespark.data.prepare.unit import DOCUMENTS, SOURCE_BYTES, TEXT_BYTES, TOKENS

LOG_SECONDS = 60.0
_REDRAWN_SECONDS = 0.2


class _Stage(NamedTuple):
    doing: str
    began: float
    meters: NDArray[np.int64] | None = None
    numbers: Sequence[int] = ()
    total: int | None = None


class Display:
    """One line that follows the meters of the units, and lines that stay.

    Where standard error is no terminal, such as the log of a batch job, a line a minute shows how far it is. With
    `show=False` nothing is printed.
    """

    def __init__(self, name: str, *, show: bool) -> None:
        self.name = name
        self._show = show
        self._console = Console(stderr=True)
        self._draws = show and self._console.is_terminal
        self._stage: _Stage | None = None
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._follow_the_stage, daemon=True)
        percent = TextColumn("{task.percentage:>3.0f}%{task.fields[figures]}")
        columns = (TextColumn("{task.description}"), BarColumn(), percent, TimeRemainingColumn())
        self._bars = Progress(*columns, console=self._console, transient=True, disable=not self._draws)
        self._task = self._bars.add_task(name, total=None, figures="")

    def __enter__(self) -> Display:
        self._bars.start()
        if self._show:
            self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        self._ended.set()
        if self._show:
            self._watch.join()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._show:
            self._console.print(f"{self.name}: {text}", highlight=False, soft_wrap=True, markup=False)

    def stage(
        self, doing: str, meters: NDArray[np.int64] | None = None, numbers: Sequence[int] = (), total_bytes: int = 0
    ) -> None:
        """What is being done; with meters, units of together `total_bytes` of source text are taken through them."""
        total = None if meters is None else max(total_bytes, 1)
        self._stage = _Stage(doing, time.monotonic(), meters, numbers, total)
        self._bars.reset(self._task, total=total, description=f"{self.name}: {doing}", figures="")

    def _follow_the_stage(self) -> None:
        while not self._ended.wait(_REDRAWN_SECONDS if self._draws else LOG_SECONDS):
            if (stage := self._stage) is None:
                continue
            seconds = max(time.monotonic() - stage.began, 1e-9)
            if stage.meters is None or stage.total is None:
                if not self._draws:
                    self.say(f"{stage.doing}, for {seconds:.0f} s")
                continue
            sums = stage.meters[stage.numbers].sum(axis=0)
            tokens = f"  {sums[TOKENS]:,} tokens" if sums[TOKENS] else ""
            figures = f"  {sums[DOCUMENTS]:,} documents{tokens}  {sums[TEXT_BYTES] / 1e6 / seconds:.1f} MB/s"
            if self._draws:
                self._bars.update(self._task, completed=int(sums[SOURCE_BYTES]), figures=figures)
            else:
                self.say(f"{stage.doing} {sums[SOURCE_BYTES] / stage.total:.0%}{figures}")
