"""What this device reaches: the rates that times are held against."""

import logging
import statistics
from collections.abc import Iterator
from dataclasses import replace

import torch

from litespark.device import device_of
from litespark.metrics.hardware import measured_matmul_peak, mfu_peak
from litespark.metrics.records.step import RatesRecord
from litespark.ops.backend import BACKENDS, REFERENCE, load
from litespark.ops.cases import cases
from litespark.ops.choice import reason_against
from litespark.ops.fp8.limits import without_units
from litespark.ops.measuring import Step, those_that_run
from litespark.ops.shapes import Place
from litespark.ops.timing import interleaved_milliseconds
from litespark.ops.verification import why_wrong
from litespark.planning.op_costs import pairs_within_sequences

log = logging.getLogger(__name__)

# on an accelerator, on a CPU
_COPY_BYTES = {True: 2**30, False: 2**26}
_SECONDS = {True: 6.0, False: 1.0}
_FP8_SIZE = 8192
_SMALL_SCORES = 2**28
_CALLS = 7  # of what is timed, at least: warm-up and repeats


def measured_rates(place: Place, *, seconds: float | None = None, peak_flops: float | None = None) -> RatesRecord:
    """The rates of the roofline, each measured here, and the vendor's peak that MFU is quoted against.

    Products are square and large, in the dtype of the run; in fp8 too where it computes in bf16 and the device has the
    units. Attention is the fastest of those that are right here, forward and backward over whole causal sequences (on a
    CPU one of them, where all would take long); None where one call would take longer than there is time for.

    Args:
        seconds: in all, about, beside verifications and compilation; None: 1 on a CPU, 6 on a GPU.
        peak_flops: what the user states as the device's dense bf16 peak, in FLOP/s; None: by its name.
    """
    there = device_of(place.device)
    share = (_SECONDS[there.is_accelerator] if seconds is None else seconds) / 4
    matmul = measured_matmul_peak(place.device, place.dtype, share)
    known = mfu_peak(there.name)
    stated = (None, None) if known is None else (known.flops, known.source)
    if peak_flops is not None:
        stated = peak_flops, "metrics.peak_flops"
    rates = RatesRecord(
        matmul_flops=matmul,
        attention_flops=_attention_flops(place, share, matmul),
        copy_bytes=copy_bandwidth(place.device, share),
        fp8_matmul_flops=_fp8_matmul_flops(place, share),
        peak_flops=stated[0],
        peak_source=stated[1],
    )
    there.empty_cache()
    return rates


def copy_bandwidth(device: torch.device, seconds: float) -> float:
    """Bytes per second that a large copy within the device's memory reads and writes together."""
    size = _COPY_BYTES[device_of(device).is_accelerator]
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    times = interleaved_milliseconds({"copy": lambda: target.copy_(source)}, device, seconds=seconds)["copy"]
    return 2 * size / (statistics.median(times) / 1e3)


def _attention_flops(place: Place, seconds: float, matmul_flops: float) -> float | None:
    """Model FLOP/s of the fastest attention over whole causal sequences: 12 · H · Dh for each (query, key) pair."""
    shapes = replace(place.shapes, sequences=1, documents=False)
    flops = 12 * shapes.num_heads * shapes.head_dim * pairs_within_sequences(shapes)
    least = _CALLS * flops / matmul_flops
    if least > 10 * seconds:
        log.warning("the rate of attention is not measured: one call takes at least %.2g s here", least / _CALLS)
        return None
    whole = device_of(place.device).is_accelerator or least * place.shapes.sequences < seconds
    place = replace(place, shapes=replace(shapes, sequences=place.shapes.sequences if whole else 1))
    step = Step(cases("attention", place.shapes, place.device)[0], place)
    names = _attention_backends(place)
    runs = those_that_run(names, lambda name: step.both(load("attention", name)), "ops.attention=")
    times = interleaved_milliseconds(runs, place.device, seconds=seconds)
    # the best, as for products: whatever else runs on the machine only lowers a rate
    return place.shapes.sequences * flops / (min(map(min, times.values())) / 1e3) if times else None


def _attention_backends(place: Place) -> Iterator[str]:
    """Those that can run there and are right; the reference only where its scores take little memory."""
    for name in BACKENDS["attention"]:
        if reason_against("attention", name, place) is not None:
            continue
        if name == REFERENCE:
            if 4 * place.shapes.sequences * place.shapes.num_heads * place.shapes.length**2 <= _SMALL_SCORES:
                yield name
        elif (wrong := why_wrong("attention", name, place)) is None:
            yield name
        else:
            log.warning("attention %s is left out of the rates: its verification failed: %s", name, wrong)


def _fp8_matmul_flops(place: Place, seconds: float) -> float | None:
    """FLOP/s of a large product in fp8, the best of several as for other products; None without the units."""
    device = place.device
    if place.dtype != torch.bfloat16 or without_units(device) is not None:
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
