"""How long something takes on a device: alternatives take turns, so that drifting clocks meet all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from litespark.device import device_of

# the device is held up while the host queues a run, or the gaps between launches would count
_LONGEST_HEAD_START = 0.02
# larger than the last-level cache of any GPU, so that every repeat reads from memory
_FLUSH_BYTES = 256 * 2**20


def interleaved_milliseconds(
    runs: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    seconds: float,
    least_repeats: int = 5,
    most_repeats: int = 100,
) -> dict[str, list[float]]:
    """Milliseconds of each repeat of each run, warmed up; on a GPU by its own clock, with the cache emptied before.

    Args:
        runs: by name; called without arguments.
        device: where they run.
        seconds: in all, about, beyond the warm-up; at least `least_repeats` are made whatever they take.
        least_repeats, most_repeats: of each run.
    """
    queueing = {name: _warmed_up(run, device) for name, run in runs.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device) if device.type != "cpu" else None
    end = time.perf_counter() + seconds
    for repeat in range(most_repeats):
        if repeat >= least_repeats and time.perf_counter() > end:
            break
        for name, run in runs.items():
            if flush is not None:
                flush.fill_(repeat % 256)
            found[name].append(_once(run, device, queueing[name]))
    return found


def median_milliseconds(
    runs: Mapping[str, Callable[[], object]], device: torch.device, *, seconds: float
) -> dict[str, float]:
    """The median of `interleaved_milliseconds` for each run."""
    return {
        name: statistics.median(times)
        for name, times in interleaved_milliseconds(runs, device, seconds=seconds).items()
    }


def _warmed_up(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that the host takes to queue the second call."""
    run()
    device_of(device).synchronise()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _once(run: Callable[[], object], device: torch.device, queueing: float) -> float:
    there = device_of(device)
    there.occupy(min(1.5 * queueing, _LONGEST_HEAD_START))
    first = there.mark()
    run()
    last = there.mark()
    there.synchronise()
    return there.milliseconds(first, last)
