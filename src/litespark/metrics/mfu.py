"""MFU and HFU: what a speed is of what devices can do, by the vendor's peak and by that of a matmul measured here.

With model FLOPs it is MFU (PaLM, arXiv 2204.02311, appendix B), with those that the hardware runs HFU. A
share that cannot be true is withheld: it would hide a wrong count of tokens, of time or of operations.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from litespark.device import out_of_memory
from litespark.metrics import names
from litespark.metrics.hardware import PeakFlops, lookup, mfu_peak

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rates:
    """What one device can do, for the ratios; None: not known.

    `peak` is the vendor's dense bf16 peak, or the one from the settings; `peak_in_use` is of the precision that
    computes, and bounds what can be true; `measured` is the matmul rate of this device in the precision of the run, and
    `most_of_measured` the largest share of it that can be true.
    """

    peak: PeakFlops | None
    peak_in_use: PeakFlops | None
    measured: float | None
    most_of_measured: float = 1.0


def rates_of(device_name: str, precision: str, stated_peak: float | None, measured: float | None) -> Rates:
    """The rates of a device in a run's precision, by table, settings (`metrics.peak_flops`, bf16) and probe."""
    # fp32 matmuls may run in tf32, which is faster than fp32: the bound of what is possible
    in_use = lookup(device_name, "tf32" if precision == "fp32" else "fp8" if precision == "fp8" else "bf16")
    peak = mfu_peak(device_name)
    if stated_peak is not None:
        peak = PeakFlops(device_name, "bf16", stated_peak, "metrics.peak_flops")
    if peak is not None and precision == "fp8":
        peak = replace(peak, source=f"{peak.source}; that of bf16, by which runs in fp8 are measured too")
    elif peak is not None and (in_use is None or peak.flops < in_use.flops):
        in_use = peak  # MFU is quoted by it, and is never above 1
    return Rates(peak, in_use, measured, most_of_measured_peak(precision))


@dataclass(frozen=True)
class FlopsPerToken:
    """Of a token, forward and backward: of the model with causal and with full attention, and of the hardware."""

    causal: float
    full: float
    hardware: float


class MfuMeter:
    """Turns speeds into shares of what the devices can do.

    `flops` are per token, by the mean of the keys that a query may see; `probe` measures the matmul rate again.
    `devices` take part; `measured_peak` is the best that a probe reached in this process: whatever else runs on the
    machine lowers a probe, so there is another one at the end.
    """

    def __init__(
        self, rates: Rates, flops: Callable[[float], FlopsPerToken], probe: Callable[[], float] | None = None
    ) -> None:
        self.rates = rates
        self.flops = flops
        self.probe = probe
        self.devices = 1
        self.measured_peak = rates.measured
        self._warned = False

    def shares(
        self, tokens_per_second: float | None, mean_keys: float | None, devices: float | None = None
    ) -> dict[str, float | None]:
        """MFU (C and F), HFU and MFU against the measured peak at this speed; None without a peak, or above it.

        The speed is of all devices together; `devices` is how many made it in the mean (None: those of this process).
        """
        if tokens_per_second is None or mean_keys is None:
            return {}
        flops, speed = self.flops(mean_keys), tokens_per_second / (devices or self.devices)
        causal, full, hardware = flops.causal * speed, flops.full * speed, flops.hardware * speed
        peak = None if self.rates.peak is None else self.rates.peak.flops
        if impossible := impossible_rate(hardware, self.rates.peak_in_use):
            peak = None
            if not self._warned:
                self._warned = True
                log.warning("%s: MFU is left out", impossible)
        # the full square counts work that is not done, and may be more than the device can do where the rest is not
        beyond = impossible_rate(full, self.rates.peak_in_use)
        return {
            names.MFU_CAUSAL: _share(causal, peak),
            names.MFU_FULL: None if beyond else _share(full, peak),
            names.HFU_CAUSAL: _share(hardware, peak),
            names.MFU_MEASURED_PEAK: possible(_share(causal, self.measured_peak), self.rates.most_of_measured),
            names.MEASURED_PEAK_FLOPS: self.measured_peak,
        }

    def probe_again(self) -> None:
        """Measure the matmul rate again, if it is measured at all; the best of all probes counts."""
        if self.probe is None:
            return
        try:
            self.measured_peak = max(self.measured_peak or 0.0, self.probe())
        except RuntimeError as error:
            if out_of_memory(error) is None:
                raise
            log.warning("the matmul peak was not measured again: the run left no memory for it")


def _share(flops: float, peak_flops: float | None) -> float | None:
    return None if peak_flops is None else flops / peak_flops


def impossible_rate(flops: float, peak: PeakFlops | None) -> str | None:
    """Why so many FLOP/s of one device cannot be true: above the peak of its precision; None where they can."""
    if peak is None or flops <= peak.flops:
        return None
    wrong = "metrics.peak_flops is too low, or " if "metrics.peak_flops" in peak.source else ""
    return (
        f"measured {flops / peak.flops:.0%} of the {peak.precision} peak of {peak.device} ({peak.flops / 1e12:g} "
        f"TFLOP/s, {peak.source}): more than the device can do, so {wrong}tokens, time or FLOPs per token are counted "
        "wrongly"
    )


def possible(share: float | None, most: float = 1.0) -> float | None:
    """A share of a measured peak; None where it is above ``most``, since then the peak was measured too low."""
    return None if share is None or share > most else share


def most_of_measured_peak(precision: str) -> float:
    """The largest share of the measured matmul peak that can be true: the probe of a run in fp8 multiplies in bf16."""
    return 2.0 if precision == "fp8" else 1.0
