"""One case and all that compute it: timed in turns, each with its memory, or with the reason why it has no figures."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from litespark.device import device_of
from litespark.metrics.records.ops import CaseRecord, TimeRecord, VariantRecord, YardstickRecord
from litespark.ops.timing import interleaved_milliseconds
from litespark.ops.verification import said

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Two calls: the forward pass, and forward and backward."""

    forward: Callable[[], object]
    both: Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """One way to compute a case.

    Attributes:
        name: as in the record.
        subject: what its runs are made of; None: for the `reason`.
        rival: it is somebody else's; verified: by its verification, None where it has none to pass.
    """

    name: str
    subject: Any = None
    reason: str | None = None
    rival: bool = False
    verified: bool | None = None


def measure_case(
    record: CaseRecord,
    contenders: Sequence[Contender],
    make: Callable[[Any], Run],
    yardsticks: Mapping[str, Callable[[], object]],
    device: torch.device,
    seconds: float,
) -> None:
    """Time all that run in turns, the yardsticks with their forward and backward passes, and fill in the record.

    One that raises (out of memory, or a limit of one backend) has that as its reason; the others go on. `make` makes
    the runs of a subject.
    """
    runs: dict[str, Run] = {}
    for contender in contenders:
        variant = VariantRecord(contender.name, contender.rival, contender.verified, reason=contender.reason)
        record.variants.append(variant)
        if contender.subject is None:
            continue
        try:
            run = make(contender.subject)
            variant.peak_memory_mib = peak_mib(run.both, device)
        except Exception as error:  # noqa: BLE001 (libraries and kernels may raise anything)
            variant.reason = f"at these sizes it raised {said(error)}"
        else:
            runs[contender.name] = run
            continue
        free(device)  # only here has the error let go of the tensors
    forward = {name: run.forward for name, run in runs.items()}
    both = {name: run.both for name, run in runs.items()}
    times = {name: summary(repeats) for name, repeats in timed(forward, device, seconds).items()}
    both |= that_run(yardsticks)
    times_both = {name: summary(repeats) for name, repeats in timed(both, device, seconds).items()}
    for variant in record.variants:
        variant.forward, variant.forward_backward = times.get(variant.name), times_both.get(variant.name)
    record.yardsticks += [YardstickRecord(name, times_both[name]) for name in yardsticks if name in times_both]
    free(device)


def that_run(calls: Mapping[str, Callable[[], object]]) -> dict[str, Callable[[], object]]:
    """The calls that do not raise."""
    found = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:  # noqa: BLE001 (as above)
            log.warning("%s is left out: it raised %s", name, said(error))
        else:
            found[name] = call
    return found


def timed(runs: dict[str, Callable[[], object]], device: torch.device, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of the repeats of each run, which take turns."""
    return interleaved_milliseconds(runs, device, seconds=seconds) if runs else {}


def peak_mib(run: Callable[[], object], device: torch.device) -> float | None:
    """What a run allocates beyond what is there before, in MiB; None where the device does not count it."""
    run()  # what is compiled or cached at the first call is not the op's
    there = device_of(device)
    there.synchronise()
    there.reset_peak()
    before = there.allocated_bytes()
    run()
    there.synchronise()
    peak = there.peak_bytes()
    return None if peak is None or before is None else (peak - before) / 2**20


def summary(times: list[float]) -> TimeRecord:
    """Median and spread of repeats in milliseconds."""
    ordered = sorted(times)
    last = len(ordered) - 1
    return TimeRecord(statistics.median(ordered), ordered[round(0.1 * last)], ordered[round(0.9 * last)], len(ordered))


def free(device: torch.device) -> None:
    """Give memory back that nothing holds any more."""
    device_of(device).empty_cache()
