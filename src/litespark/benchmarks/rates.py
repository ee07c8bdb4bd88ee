"""What this device reaches: the rates that times are held against."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch

from litespark.metrics.hardware import measured_matmul_peak, mfu_peak
from litespark.metrics.records.step import RatesRecord
from litespark.models.config import LlamaConfig
from litespark.ops.backend import BACKENDS, REFERENCE, load
from litespark.ops.cases import cases
from litespark.ops.choice import reason_against
from litespark.ops.measuring import Step
from litespark.ops.proof import prove, said
from litespark.ops.shapes import Place
from litespark.ops.timing import interleaved_milliseconds, median_milliseconds
from litespark.ops.work import pairs_within_documents, pairs_within_rows

log = logging.getLogger(__name__)

_COPY_BYTES = {"cuda": 2**30, "cpu": 2**26}
_SECONDS = {"cuda": 6.0, "cpu": 1.0}
# Ada's and Hopper's matrix units are the first that multiply in fp8
_FP8_CAPABILITY = (8, 9)
_FP8_SIZE = 8192
_CALLS = 7  # of what is timed, at least: warm-up and repeats


def measured_rates(
    config: LlamaConfig, place: Place, *, seconds: float | None = None, peak_flops: float | None = None
) -> RatesRecord:
    """The rates of the floor, each measured here, and the vendor's peak that MFU is quoted against.

    Products are square and large, in the dtype of the run; in fp8 too where it computes in bf16 and the device has the
    units. Attention is the fastest of those that can run here and pass their proof, forward and backward at the run's
    own shape (one row of it on a CPU, where the rate does not depend on their number); None where one call would take
    longer than there is time for.

    Args:
        config: the model.
        place: device, dtype and sizes of the run.
        seconds: in all, about, beside proofs and compilation; None: 1 on a CPU, 6 on a GPU.
        peak_flops: what the user states as the device's dense bf16 peak, in FLOP/s; None: by its name.

    Raises:
        ValueError: `seconds` is not positive.
    """
    device = place.device
    seconds = _SECONDS[device.type] if seconds is None else seconds
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds: got {seconds}, expected a positive number")
    share = seconds / 4
    matmul = measured_matmul_peak(device, place.dtype, share)
    found = RatesRecord(
        matmul_flops=matmul,
        attention_flops=_attention_flops(place, share, matmul),
        copy_bytes=copy_bandwidth(device, share),
        fp8_matmul_flops=_fp8_matmul_flops(place, share),
    )
    if peak_flops is not None:
        found.peak_flops, found.peak_source = peak_flops, "metrics.peak_flops"
    elif device.type == "cuda" and (peak := mfu_peak(torch.cuda.get_device_name(device))) is not None:
        found.peak_flops, found.peak_source = peak.flops, peak.source
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def copy_bandwidth(device: torch.device, seconds: float) -> float:
    """Bytes per second that a large copy within the device's memory reads and writes together."""
    size = _COPY_BYTES[device.type]
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    times = interleaved_milliseconds({"copy": lambda: target.copy_(source)}, device, seconds=seconds)["copy"]
    return 2 * size / (statistics.median(times) / 1e3)


def _attention_flops(place: Place, seconds: float, matmul_flops: float) -> float | None:
    """Model FLOP/s of the fastest attention: 12 · H · Dh for each (query, key) pair."""
    if place.device.type == "cpu":
        place = replace(place, shapes=replace(place.shapes, rows=1))
    shapes = place.shapes
    least = 12 * shapes.heads * shapes.head_width * pairs_within_rows(shapes) / matmul_flops
    if _CALLS * least > 10 * seconds:
        log.warning("the rate of attention is not measured: one call takes at least %.2g s here", least)
        return None
    case = cases("attention", shapes, place.device)[-1]
    step = Step(case, place)
    runs: dict[str, Callable[[], object]] = {}
    for name in BACKENDS["attention"]:
        # the reference writes every score to memory, and is never the fastest
        if name == REFERENCE or reason_against("attention", name, place) is not None:
            continue
        try:
            proofs = prove("attention", name, shapes, place.device, place.dtype, autocast=place.autocast)
            if not all(proof.passed for proof in proofs):
                log.warning("attention %s is left out of the rates: its proof failed", name)
                continue
            run = step.both(load("attention", name))
            run()
        except Exception as error:  # noqa: BLE001 (a limit of one backend, or no memory; the others go on)
            log.warning("attention %s is left out of the rates: it raised %s", name, said(error))
            continue
        runs[name] = run
    if not runs:
        return None
    documents = case.documents
    pairs = pairs_within_rows(shapes) if documents is None else pairs_within_documents(documents.index)
    best = min(median_milliseconds(runs, place.device, seconds=seconds).values())
    return 12 * shapes.heads * shapes.head_width * pairs / (best / 1e3)


def _fp8_matmul_flops(place: Place, seconds: float) -> float | None:
    """FLOP/s of a large product in fp8, the best of several as for other products; None without the units."""
    device = place.device
    if device.type != "cuda" or place.dtype != torch.bfloat16 or torch.version.hip is not None:
        return None
    if torch.cuda.get_device_capability(device) < _FP8_CAPABILITY:
        return None
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(_FP8_SIZE, _FP8_SIZE, generator=generator, device=device).to(torch.float8_e4m3fn) for _ in range(2)
    )
    one = torch.ones((), device=device)

    def product() -> object:
        # the right one column by column, the only layout that every device takes
        return torch._scaled_mm(left, right.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)

    times = interleaved_milliseconds({"product": product}, device, seconds=seconds)["product"]
    return 2 * _FP8_SIZE**3 / (min(times) / 1e3)
