"""The progress line: step, loss, tokens/s, MFU, J/token and the time that is left, as wide as the terminal is."""

import sys
import time
from collections.abc import Sequence

import lightning.pytorch as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from litespark.callbacks.metrics_logger import MetricsLogger
from litespark.callbacks.phases import Phase, Phases
from litespark.callbacks.steps import StepCallback
from litespark.metrics import names
from litespark.metrics.time_left import TimeLeft
from litespark.training.module import TrainingModule

# of the wordings of the line, those that have every figure
_COMPLETE = 3
_SHORTEST_BAR, _LONGEST_BAR = 10, 40
_GAP = "  "
_SECONDS_BETWEEN_LINES = 10.0


class ProgressBar(StepCallback):
    """Shows the last logged metrics on one line that is kept up to date; without a terminal, a line now and then.

    At the start it names the model and the place, and gives the notes, such as why energy cannot be read here.
    """

    def __init__(
        self, metrics: MetricsLogger, *, phases: Phases, model: str, place: str, notes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.metrics = metrics
        self.model, self.place, self.notes = model, place, notes
        self.console = Console(file=sys.stderr)
        self._live: Live | None = None
        self._module: TrainingModule | None = None
        self._last_line = 0.0
        self._left = TimeLeft(0, 0.0)
        phases.listen(self._phase_changed)

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self._last_line = time.monotonic()
        self._module = module
        self._left = TimeLeft(module.tokens_seen, self._last_line)
        if not module.mesh.is_first:
            return
        already = f" ({module.steps_taken:,} taken)" if module.steps_taken else ""
        length = f"{module.planned_steps:,} steps{already}, {module.planned_tokens:,} tokens"
        for line in (f"{self.model}, {length}, {self.place}", *self.notes):
            self.console.print(line, highlight=False, soft_wrap=True)
        if self.console.is_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=4)
            self._live.start()

    def step_ended(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        now = time.monotonic()
        self._left.step(module.tokens_seen, now)
        if not module.mesh.is_first or self._live is not None:
            return
        if module.finished or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.console.print(self.forms()[0], highlight=False, soft_wrap=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The line as wide as the terminal is now, with a bar where there is room for one."""
        module, width = self._module, options.max_width
        assert module is not None
        forms = self.forms()
        beside_bar = width - _SHORTEST_BAR - len(_GAP)
        # words that only explain give way to a bar, figures do not
        text = next((form for form in forms[:_COMPLETE] if len(form) <= beside_bar), None)
        if text is None:
            yield Text(next((form for form in forms if len(form) <= width), forms[-1]), no_wrap=True, overflow="crop")
            return
        bar_width = min(_LONGEST_BAR, width - len(text) - len(_GAP))
        row = Table.grid(padding=(0, len(_GAP), 0, 0))
        row.add_row(text, Bar(total=module.planned_steps, completed=module.steps_taken, width=bar_width))
        yield row

    def forms(self) -> list[str]:
        """The newest measured values in one line, from the richest wording to the shortest."""
        latest, module = self.metrics.latest, self._module
        assert module is not None

        def said(key: str, wording: str) -> str:
            return "" if latest.get(key) is None else wording.format(latest[key])

        counted = f"{module.steps_taken}/{module.planned_steps}"
        step = f"step {counted}"
        seconds = self._left.seconds(max(0, module.planned_tokens - module.tokens_seen))
        left = "" if seconds is None else f"{_duration(seconds)} left"
        loss = said(names.TRAIN_LOSS, "loss {:.3f}")
        validation = said(names.VALIDATION_LOSS, "validation {:.3f}")
        rate = said(names.TOKENS_PER_SECOND, "{:,.0f} tokens/s")
        short_rate = rate and f"{_short(latest[names.TOKENS_PER_SECOND])} tokens/s"
        share = said(names.MFU_CAUSAL, "MFU {:.1%}")
        of = "" if share else said(names.MFU_MEASURED_PEAK, " of the measured peak")
        share = share or said(names.MFU_MEASURED_PEAK, "MFU {:.1%}")
        energy = said(names.JOULES_PER_TOKEN, "{:.3g} J/token") or "J/token n/a"
        forms = (
            (step, loss, validation, rate, share + of, energy, left),
            (step, loss, validation, rate, share, energy, left),
            (step, loss, rate, share, energy, left),
            (step, loss, short_rate, share, energy, left),
            (counted, loss, short_rate, share, energy, left),
            (counted, loss, short_rate, share, left),
            (counted, loss, short_rate, left),
            (counted, loss, left),
            (counted, left),
        )
        return [_GAP.join(filter(None, form)) for form in forms]

    def _phase_changed(self, before: Phase, after: Phase) -> None:
        (self._left.go_on if after == "train" else self._left.pause)(time.monotonic())

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _short(value: float) -> str:
    """A rate in at most six characters: 9,939, 123.5k, 1.23M."""
    if value >= 1e6:
        return f"{value / 1e6:.2f}M"
    return f"{value / 1e3:.1f}k" if value >= 1e4 else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    """The two largest units: 0:41, 12:34, 3h05m, 2d04h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, day_hours = divmod(hours, 24)
    if days:
        return f"{days}d{day_hours:02}h"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}:{rest:02}"
