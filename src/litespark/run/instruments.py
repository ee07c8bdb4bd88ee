"""The instruments of a run: what they measure with on this device, and what it has not, said once."""

import logging
from functools import partial

import torch

from litespark.device import device_of
from litespark.metrics.energy_by_phase import EnergyMeter
from litespark.metrics.hardware import measured_matmul_peak
from litespark.metrics.mfu import FlopsPerToken, MfuMeter, Rates, rates_of
from litespark.ops import triton_support
from litespark.planning.flops import hardware_flops_per_token, model_flops_per_token
from litespark.run.config import Parts
from litespark.run.preflight import Machine
from litespark.training.parallel.precision import activation_dtype

log = logging.getLogger(__name__)


def build_mfu(parts: Parts, machine: Machine) -> MfuMeter:
    """MFU of this device, by its table, the settings and a probe in the precision of the run."""
    device, model, settings, adapter = machine.device, parts.model, parts.metrics, parts.adapter_counts

    def flops(mean_keys: float) -> FlopsPerToken:
        return FlopsPerToken(
            model_flops_per_token(model, mean_keys, adapter),
            model_flops_per_token(model, parts.data.seq_len, adapter),
            hardware_flops_per_token(model, mean_keys, parts.recompute, adapter),
        )

    dtype = activation_dtype(machine.precision, device)
    probe = partial(measured_matmul_peak, device, dtype, settings.probe_seconds) if settings.probe_seconds > 0 else None
    rates = rates_of(device_of(device).name, machine.precision, settings.peak_flops, probe() if probe else None)
    return MfuMeter(rates, flops, probe)


def say_what_is_absent(device: torch.device, rates: Rates, meter: EnergyMeter) -> None:
    """One line of what an accelerator lacks, which its results therefore do not have; a CPU lacks it everywhere."""
    there = device_of(device)
    if not there.is_accelerator:
        return
    absent = []
    if (reason := triton_support.why_not(device, torch.float32)) is not None:
        absent.append(f"Triton kernels ({reason})")
    if rates.peak is None:
        absent.append("MFU (no peak is known for it: set metrics.peak_flops to its dense bf16 FLOP/s)")
    if meter.method is None:
        absent.append(f"energy ({meter.reason})")
    if not there.has_timer:
        absent.append("step times (no timer on the device)")
    if there.peak_bytes() is None:
        absent.append("peak memory (not counted)")
    if absent:
        log.warning("on %s a run is without %s", there.name, ", ".join(absent))
