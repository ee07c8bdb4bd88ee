"""Tokens per second, step times and utilisation, from counted tokens and an injected clock.

The meter never touches a device: the caller that closes a window synchronises first, once. Averages divide by what was
counted: tokens come from the batches, seconds from the clock less the pauses.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# a run's step times are kept as counts in logarithmic bins this wide, so that a run of any length has a quantile at
# half a per cent without a list of all its steps
_BIN = math.log(1.01)

# from this ratio on, other programs shared the machine; see `shared_machine`
SHARED_FROM = 2.0
STEPS_OF_A_PERCENTILE = 20
DATA_BOUND = 0.1


@dataclass(frozen=True)
class Throughput:
    """A window, or a whole run with its resumes; None where no step qualifies.

    ``steps``, ``tokens`` and ``train_seconds`` cover everything. Of a run, the rates and shares are totals divided by
    totals over the windows that hold no warm-up step, or over everything where there is no such window; ``devices`` is
    the mean over their seconds, since a resume may change it; step times are quantiles to half a per cent.
    ``attention_pairs_per_token`` are the mean keys that a query may see: what the causal FLOPs formula takes.
    """

    steps: int
    tokens: int
    train_seconds: float
    tokens_per_second: float | None
    attention_pairs_per_token: float | None
    data_wait_share: float | None
    devices: float | None
    step_ms_median: float | None
    step_ms_p95: float | None


@dataclass
class _Totals:
    steps: int = 0
    tokens: int = 0
    attention_pairs: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    device_seconds: float = 0.0

    def add(self, other: "_Totals") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def throughput(self, rates: "_Totals", step_ms_median: float | None, step_ms_p95: float | None) -> Throughput:
        timed = rates.seconds > 0
        return Throughput(
            steps=self.steps,
            tokens=self.tokens,
            train_seconds=self.seconds,
            tokens_per_second=rates.tokens / rates.seconds if timed and rates.steps else None,
            attention_pairs_per_token=rates.attention_pairs / rates.tokens if rates.tokens else None,
            data_wait_share=min(1.0, rates.wait_seconds / rates.seconds) if timed else None,
            devices=rates.device_seconds / rates.seconds if timed else None,
            step_ms_median=step_ms_median,
            step_ms_p95=step_ms_p95,
        )


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
        self._all, self._steady = _Totals(), _Totals()
        self._histogram: Counter[int] = Counter()
        self._running_since: float | None = None
        self._open_window()

    def _open_window(self) -> None:
        self._window = _Totals()
        self._durations: list[float] = []  # of its steps past warm-up, in milliseconds
        self._warming_up = self._warmup_left > 0

    @property
    def open_steps(self) -> int:
        return self._window.steps

    def start(self) -> None:
        """Start or continue the clock; no effect while it runs."""
        if self._running_since is None:
            self._running_since = self._clock()

    def pause(self) -> None:
        """Stop the clock; no effect while it stands."""
        if self._running_since is not None:
            self._window.seconds += self._clock() - self._running_since
            self._running_since = None

    def add_step(
        self, tokens: int, attention_pairs: int, step_seconds: float | None = None, wait_seconds: float = 0.0
    ) -> None:
        """Count one optimizer step, all its micro-batches together, of which the loop waited ``wait_seconds`` for data.

        ``step_seconds`` is None where it would need a wait for the device; such steps are in no quantile.
        """
        self._window.add(_Totals(1, tokens, attention_pairs, wait_seconds=wait_seconds))
        if self._warmup_left:
            self._warmup_left -= 1
        elif step_seconds is not None:
            self._durations.append(1e3 * step_seconds)

    def close_window(self) -> Throughput:
        """Close the window and open the next; synchronise the device before."""
        running = self._running_since is not None
        self.pause()
        window, durations = self._window, self._durations
        window.device_seconds = window.seconds * self.devices
        self._all.add(window)
        if not (self._warming_up and window.steps):
            self._steady.add(window)
        self._histogram.update(map(_bin, durations))
        self._open_window()
        if running:
            self.start()
        return window.throughput(window, quantile(durations, 0.5), quantile(durations, 0.95))

    def summary(self) -> Throughput:
        """The closed windows of the whole run; an open one is not in it."""
        rates = self._steady if self._steady.steps else self._all
        median, p95 = (_binned_quantile(self._histogram, fraction) for fraction in (0.5, 0.95))
        return self._all.throughput(rates, median, p95)

    def state_dict(self) -> dict[str, Any]:
        """Totals of the closed windows as nested dicts of ints and floats, fit for JSON."""
        return {
            "all": dict(vars(self._all)),
            "steady": dict(vars(self._steady)),
            "step_bins": {str(bin_): count for bin_, count in sorted(self._histogram.items())},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; warm-up starts anew, because the process does."""
        try:
            self._all, self._steady = _Totals(**state["all"]), _Totals(**state["steady"])
            self._histogram = Counter({int(bin_): count for bin_, count in state["step_bins"].items()})
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"throughput: got a checkpoint with {sorted(state)} ({error}), expected totals of this version; "
                "continue with the version that wrote it, or start a new run"
            ) from error


def shared_machine(median: float | None, p95: float | None, steps: int, waited: float | None) -> float | None:
    """By which factor the 95th percentile of the step times is above their median, where that shows other programs.

    Alone on a machine the two lie within a few per cent; two processes of equal right halve each other. None also of so
    few steps that the percentile is one step, and where the loop ``waited`` for data in too large a share of the time.
    """
    if not median or p95 is None or steps < STEPS_OF_A_PERCENTILE or (waited or 0) > DATA_BOUND:
        return None
    factor = p95 / median
    return factor if factor >= SHARED_FROM else None


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
