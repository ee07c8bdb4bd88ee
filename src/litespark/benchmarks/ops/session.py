"""`litespark bench ops` from start to end: what to measure, where the record lies, and continuing one."""

import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from litespark.benchmarks.ops.fp8 import measure_fp8
from litespark.benchmarks.ops.measure import measure_op
from litespark.benchmarks.ops.optimizer import measure_optimizer
from litespark.benchmarks.rates import copy_bandwidth
from litespark.benchmarks.session import begin, check_measurable, provenance, record_path
from litespark.device import device_of, find
from litespark.metrics.records.ops import FailureRecord, OpsRecord
from litespark.ops.backend import BACKENDS
from litespark.ops.shapes import Place
from litespark.ops.verification import said
from litespark.run.config import Parts
from litespark.run.measured_precision import precision_of
from litespark.run.preflight import place_of

OPTIMIZER = "optimizer"
EVERYTHING = (*BACKENDS, OPTIMIZER)
# about twenty measurements, beside them verifications and compilation
_SECONDS = {True: 4.0, False: 0.3}  # on an accelerator, on a CPU
# no op is begun after so many seconds: a GPU may be lent for ten minutes, and the same command continues
_LAST_START = 450.0


def bench_ops(
    parts: Parts,
    overrides: Sequence[str],
    *,
    ops: Sequence[str],
    seconds: float | None,
    command: Sequence[str],
    output: Path,
    say: Callable[[str], None],
) -> tuple[OpsRecord, Path]:
    """Measure `ops` (names of `EVERYTHING`, none: all), each for about `seconds`, and write the record after every one.

    A ValueError where an op is unknown, a sequence is too long, or the device is not here.
    """
    began = time.perf_counter()
    new, place = _new(parts, overrides, ops, seconds, command)
    record, path = begin(
        new,
        record_path(output, new.provenance, "bench-ops", new.model, new.environment.precision),
        done=lambda record: f"{sum(map(record.done, record.ops))} of {len(record.ops)} ops",
        say=say,
    )
    # measured anew in each process: the figures of this one are held against it
    record.copy_bytes_per_second = copy_bandwidth(place.device, record.seconds)
    for op in record.ops:
        if record.done(op):
            continue
        if time.perf_counter() - began > _LAST_START:
            say(f"stopped before {op}, after {_LAST_START:.0f} s: the same command continues")
            break
        say(f"measuring {op}")
        record.failures = [failure for failure in record.failures if failure.op != op]
        try:
            _measure(op, record, parts, place, record.copy_bytes_per_second)
        except Exception as error:  # noqa: BLE001 (the others are still to be measured)
            record.failures.append(FailureRecord(op, said(error)))
            say(f"{op}: {traceback.format_exc()}")
        record.write(path)
    return record, path


def _new(
    parts: Parts, overrides: Sequence[str], ops: Sequence[str], seconds: float | None, command: Sequence[str]
) -> tuple[OpsRecord, Place]:
    """The record before anything is measured, and where that will be."""
    for op in ops:
        if op not in EVERYTHING:
            raise ValueError(f"--op: got {op}, expected one of {', '.join(EVERYTHING)}")
    check_measurable(parts)
    device = find(parts.trainer.accelerator)
    precision = precision_of(parts, device)
    place = place_of(parts, device, precision)
    record = OpsRecord(
        provenance(parts, overrides, command, device, precision),
        model=parts.llama.name,
        sequences=place.shapes.sequences,
        seq_len=place.shapes.length,
        seconds=seconds or _SECONDS[device_of(device).is_accelerator],
        ops=[op for op in EVERYTHING if op in ops or not ops],
    )
    return record, place


def _measure(op: str, record: OpsRecord, parts: Parts, place: Place, bandwidth: float) -> None:
    if op == OPTIMIZER:
        record.optimizer, record.optimizer_parameters = measure_optimizer(
            parts.llama, parts.optim, place.device, seconds=record.seconds, bandwidth=bandwidth
        )
    elif op == "fp8":
        cases, record.widths, record.pays = measure_fp8(
            parts.llama, parts.fp8, place, seconds=record.seconds, bandwidth=bandwidth
        )
        record.cases += cases
    else:
        record.cases += measure_op(op, place, seconds=record.seconds, bandwidth=bandwidth)
