"""Tokens per second, step times and utilisation, from counted tokens and an injected clock.

The meter never touches a device: whoever closes a window synchronises first, once. Averages divide by what was
counted: tokens come from the batches, seconds from the clock less the pauses.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

# a run's step times are kept as counts in logarithmic bins this wide, so that a run of any length has a quantile at
# half a per cent without a list of all its steps
_BIN = math.log(1.01)

# from when on step times tell of other programs; see `shared_machine`
SHARED_FROM = 2.0
STEPS_OF_A_PERCENTILE = 20
DATA_BOUND = 0.1


@dataclass(frozen=True)
class TokenCounts:
    """What a step consumed: input tokens (padding is none), labels in the loss, (query, key) pairs that masks allow."""

    tokens: int = 0
    supervised: int = 0
    attention_pairs: int = 0

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class ThroughputWindow:
    """The steps between two closings; times in seconds and milliseconds, None where no step qualifies."""

    steps: int
    counts: TokenCounts
    seconds: float
    step_ms_median: float | None
    step_ms_p95: float | None
    data_wait_share: float | None

    @property
    def tokens_per_second(self) -> float | None:
        return self.counts.tokens / self.seconds if self.seconds > 0 and self.steps else None

    @property
    def attention_pairs_per_token(self) -> float | None:
        """Mean keys that a query may see: what the causal FLOPs formula takes."""
        return self.counts.attention_pairs / self.counts.tokens if self.counts.tokens else None


@dataclass(frozen=True)
class ThroughputSummary:
    """A whole run, resumes included; step times are quantiles over the steps past warm-up, to half a per cent.

    ``counts``, ``steps`` and ``train_seconds`` cover everything. The others are totals divided by totals over the
    windows that hold no warm-up step, or over everything where there is no such window; ``devices`` is the mean over
    their seconds, since a resume may change it.
    """

    steps: int
    counts: TokenCounts
    train_seconds: float
    tokens_per_second: float | None
    attention_pairs_per_token: float | None
    step_ms_median: float | None
    step_ms_p95: float | None
    data_wait_share: float | None
    devices: float | None = None


@dataclass
class _Totals:
    steps: int = 0
    tokens: int = 0
    supervised: int = 0
    attention_pairs: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    device_seconds: float = 0.0

    def add(self, window: "_Totals") -> None:
        for name, value in vars(window).items():
            setattr(self, name, getattr(self, name) + value)


class ThroughputMeter:
    """Collects steps into windows and windows into totals; ``devices`` take part in the steps to come.

    ``warmup_steps`` at the start of this process (compilation, allocator) are left out of step times and steady rates;
    their tokens and seconds stay in the totals. The clock starts with ``start`` and stands still between ``pause`` and
    ``start`` (validation, checkpoints).
    """

    def __init__(self, warmup_steps: int = 1, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.devices = 1
        self._warmup_left = warmup_steps
        self._all = _Totals()
        self._steady = _Totals()
        self._histogram: Counter[int] = Counter()
        self._running_since: float | None = None
        self._open_window()

    def _open_window(self) -> None:
        self._window_seconds = self._wait_seconds = 0.0
        self._steps: list[tuple[float | None, bool]] = []  # (seconds if known, past warm-up)
        self._counts = TokenCounts()

    @property
    def open_steps(self) -> int:
        """Steps in the open window."""
        return len(self._steps)

    def start(self) -> None:
        """Start or continue the clock; no effect while it runs."""
        if self._running_since is None:
            self._running_since = self._clock()

    def pause(self) -> None:
        """Stop the clock; no effect while it stands."""
        if self._running_since is not None:
            self._window_seconds += self._clock() - self._running_since
            self._running_since = None

    def add_step(
        self,
        tokens: int,
        supervised: int,
        attention_pairs: int,
        step_seconds: float | None = None,
        wait_seconds: float = 0,
    ) -> None:
        """Count one optimizer step, all its micro-batches together, of which the loop waited ``wait_seconds`` for data.

        ``step_seconds`` is None where only a wait for the device would tell; such steps are in no quantile.
        """
        self._steps.append((step_seconds, self._warmup_left == 0))
        self._warmup_left = max(0, self._warmup_left - 1)
        self._counts += TokenCounts(tokens, supervised, attention_pairs)
        self._wait_seconds += wait_seconds

    def close_window(self) -> ThroughputWindow:
        """Close the window and open the next; synchronise the device before."""
        running = self._running_since is not None
        self.pause()
        counts, seconds, waited, steps = self._counts, self._window_seconds, self._wait_seconds, self._steps
        totals = _Totals(len(steps), **vars(counts), seconds=seconds, wait_seconds=waited)
        totals.device_seconds = seconds * self.devices
        self._all.add(totals)
        if all(steady for _, steady in steps):
            self._steady.add(totals)
        durations = [1e3 * step for step, steady in steps if steady and step is not None]
        self._histogram.update(map(_bin, durations))
        self._open_window()
        if running:
            self.start()
        return ThroughputWindow(
            steps=len(steps),
            counts=counts,
            seconds=seconds,
            step_ms_median=quantile(durations, 0.5),
            step_ms_p95=quantile(durations, 0.95),
            data_wait_share=_share(waited, seconds),
        )

    def summary(self) -> ThroughputSummary:
        """The closed windows of the whole run; an open one is not in it."""
        rates = self._steady if self._steady.steps else self._all
        return ThroughputSummary(
            steps=self._all.steps,
            counts=TokenCounts(self._all.tokens, self._all.supervised, self._all.attention_pairs),
            train_seconds=self._all.seconds,
            tokens_per_second=rates.tokens / rates.seconds if rates.seconds > 0 else None,
            attention_pairs_per_token=rates.attention_pairs / rates.tokens if rates.tokens else None,
            step_ms_median=_binned_quantile(self._histogram, 0.5),
            step_ms_p95=_binned_quantile(self._histogram, 0.95),
            data_wait_share=_share(rates.wait_seconds, rates.seconds),
            devices=rates.device_seconds / rates.seconds if rates.seconds > 0 else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """Totals of the closed windows as nested dicts of ints and floats, fit for JSON."""
        return {
            "all": dict(vars(self._all)),
            "steady": dict(vars(self._steady)),
            "step_bins": {str(bin_): count for bin_, count in sorted(self._histogram.items())},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; warm-up starts anew, because the process does."""
        self._all = _Totals(**state["all"])
        self._steady = _Totals(**state["steady"])
        self._histogram = Counter({int(bin_): count for bin_, count in state["step_bins"].items()})


def shared_machine(median: float | None, p95: float | None, steps: int, waited: float | None) -> float | None:
    """By which factor the 95th percentile of the step times is above their median, where that tells of other programs.

    Steps do the same work, so on a machine of their own the two lie within a few per cent; two processes of equal right
    on the same cores halve each other, so from a factor of 2 on something else ran. None below that, of so few steps
    that the percentile is a single step, and where the loop ``waited`` for its data in too large a share of the time.
    """
    if not median or p95 is None or steps < STEPS_OF_A_PERCENTILE or (waited or 0) > DATA_BOUND:
        return None
    factor = p95 / median
    return factor if factor >= SHARED_FROM else None


def _share(part: float, whole: float) -> float | None:
    return min(1.0, part / whole) if whole > 0 else None


def quantile(values: Sequence[float], fraction: float) -> float | None:
    """The quantile with linear interpolation between the two nearest ranks; None of nothing."""
    return float(np.quantile(values, fraction)) if values else None


def _bin(milliseconds: float) -> int:
    # a nanosecond is far below what the clock resolves and keeps the logarithm of a zero away
    return round(math.log(max(milliseconds, 1e-6)) / _BIN)


def _binned_quantile(histogram: Counter[int], fraction: float) -> float | None:
    seen = 0
    for bin_, count in sorted(histogram.items()):
        seen += count
        if seen >= fraction * histogram.total():
            return math.exp(bin_ * _BIN)
    return None
