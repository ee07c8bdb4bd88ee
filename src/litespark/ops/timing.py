"""How long something takes on a device: alternatives take turns, so that drifting clocks meet all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from litespark.device import device_of

Name = TypeVar("Name", bound=str)
# the device is held up while the host queues a run, or the gaps between launches would count
_LONGEST_HEAD_START = 0.02
# larger than the last-level cache of any GPU, so that every repeat reads from memory
_FLUSH_BYTES = 256 * 2**20
_LEAST_REPEATS, _MOST_REPEATS = 5, 100


def interleaved_milliseconds(
    runs: Mapping[Name, Callable[[], object]],
    device: torch.device,
    *,
    seconds: float,
    least_repeats: int = _LEAST_REPEATS,
) -> dict[Name, list[float]]:
    """Milliseconds of each repeat of each run, with the cache emptied before; all take about `seconds` together."""
    queueing = {name: _warmed_up(run, device) for name, run in runs.items()}
    times: dict[Name, list[float]] = {name: [] for name in runs}
    flush = torch.empty(_FLUSH_BYTES if device_of(device).is_accelerator else 0, dtype=torch.uint8, device=device)
    end = time.perf_counter() + seconds
    for repeat in range(_MOST_REPEATS if runs else 0):
        if repeat >= least_repeats and time.perf_counter() > end:
            break
        for name, run in runs.items():
            flush.fill_(repeat % 256)
            times[name].append(_once(run, device, queueing[name]))
    return times


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
