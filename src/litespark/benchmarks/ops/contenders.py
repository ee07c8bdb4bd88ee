"""One case and all that compute it: timed in turns, each with its memory, or with the reason why it has no figures."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from litespark.device import device_of
from litespark.metrics.records.ops import CaseRecord, TimeRecord, VariantRecord, YardstickRecord
from litespark.ops.measuring import those_that_run
from litespark.ops.timing import interleaved_milliseconds
from litespark.ops.verification import said


class Run(NamedTuple):
    """Two calls: the forward pass, and forward and backward."""

    forward: Callable[[], object]
    both: Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """One way to compute a case."""

    name: str  # as in the record
    make: Callable[[], Run] | None = None  # None: it does not run, for the `reason`
    reason: str | None = None
    rival: bool = False  # it is somebody else's
    verified: bool | None = None  # by its verification; None where it has none to pass


def measure_case(
    record: CaseRecord,
    contenders: Sequence[Contender],
    yardsticks: Mapping[str, Callable[[], object]],
    device: torch.device,
    seconds: float,
) -> None:
    """Time all that run in turns, the yardsticks with forward and backward; one that raises has that as its reason."""
    runs: dict[str, Run] = {}
    for contender in contenders:
        variant = VariantRecord(contender.name, contender.rival, contender.verified, reason=contender.reason)
        record.variants.append(variant)
        if contender.make is None:
            continue
        try:
            run = contender.make()
            variant.peak_memory_mib = _peak_mib(run.both, device)
            runs[contender.name] = run
        except Exception as error:  # noqa: BLE001 (libraries and kernels may raise anything)
            variant.reason = f"at these sizes it raised {said(error)}"
        if contender.name not in runs:
            device_of(device).empty_cache()  # only here has the error let go of the tensors
    forward = timed({name: run.forward for name, run in runs.items()}, device, seconds)
    beside = those_that_run(yardsticks, lambda name: yardsticks[name])
    both = timed({name: run.both for name, run in runs.items()} | beside, device, seconds)
    for variant in record.variants:
        variant.forward, variant.forward_backward = forward.get(variant.name), both.get(variant.name)
    record.yardsticks += [YardstickRecord(name, both[name]) for name in beside]
    device_of(device).empty_cache()


def timed(runs: Mapping[str, Callable[[], object]], device: torch.device, seconds: float) -> dict[str, TimeRecord]:
    """Median and spread of the repeats of each run, which take turns."""
    measured = {}
    for name, times in interleaved_milliseconds(runs, device, seconds=seconds).items():
        ordered, last = sorted(times), len(times) - 1
        spread = ordered[round(0.1 * last)], ordered[round(0.9 * last)]
        measured[name] = TimeRecord(statistics.median(ordered), *spread, len(ordered))
    return measured


def _peak_mib(run: Callable[[], object], device: torch.device) -> float | None:
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
