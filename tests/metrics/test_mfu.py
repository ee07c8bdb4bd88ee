"""Speeds over peaks, and what cannot be true."""

import logging
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

from litespark.metrics import names
from litespark.metrics.hardware import PeakFlops
from litespark.metrics.mfu import FlopsPerToken, MfuMeter, Rates, impossible_rate, rates_of

PEAK = PeakFlops("card", "bf16", 1e9, "test")


def meter(peak=None, in_use=None, measured=None, most=1.0) -> MfuMeter:
    # at 4 keys: 4,000 FLOPs a token of the model, 5,000 with what is recomputed, 6,000 of the full square
    flops = lambda keys: FlopsPerToken(1e3 * keys, 6e3, 1.25e3 * keys)  # noqa: E731
    return MfuMeter(Rates(peak, in_use, measured, most), flops)


def test_shares_are_of_all_devices_and_recompute_counts_for_hardware_only():
    one = meter(PEAK, None, 5e8)
    assert one.shares(1e3, 4.0) == pytest.approx(
        {
            names.MFU_CAUSAL: 4e-3,
            names.MFU_FULL: 6e-3,
            names.HFU_CAUSAL: 5e-3,
            names.MFU_MEASURED_PEAK: 8e-3,
            names.MEASURED_PEAK_FLOPS: 5e8,
        }
    )
    assert one.shares(1e3, 4.0, devices=2)[names.MFU_CAUSAL] == pytest.approx(2e-3)
    one.devices = 4
    assert one.shares(1e3, 4.0)[names.MFU_CAUSAL] == pytest.approx(1e-3)


def test_the_best_probe_counts_and_a_full_memory_leaves_what_was_measured(caplog):
    one = meter(measured=5e8)
    for error in (torch.OutOfMemoryError("no room"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")):
        one.probe = Mock(side_effect=error)
        one.probe_again()
        assert (one.measured_peak, "left no memory" in caplog.text) == (5e8, True)
        caplog.clear()
    one.probe = Mock(return_value=6e8)
    one.probe_again()
    assert one.measured_peak == 6e8
    one.probe = Mock(side_effect=RuntimeError("an illegal memory access"))
    with pytest.raises(RuntimeError, match="illegal"):
        one.probe_again()


def test_without_a_peak_or_a_speed_shares_are_absent():
    assert set(meter().shares(1e3, 4.0).values()) == {None}
    assert meter(PEAK).shares(None, 4.0) == meter(PEAK).shares(1e3, None) == {}


def test_above_the_peak_of_its_precision_a_run_has_no_mfu_and_that_is_said_once(caplog):
    impossible = meter(PEAK, PEAK)
    with caplog.at_level(logging.WARNING):
        assert set(impossible.shares(1e6, 4.0).values()) == {None}
        impossible.shares(1e6, 4.0)
    assert caplog.text.count("more than the device can do") == 1
    # the full square may be beyond where the work that is done is not
    assert meter(PEAK, PEAK).shares(1.9e5, 4.0)[names.MFU_FULL] is None
    assert meter(PEAK, PEAK).shares(1.9e5, 4.0)[names.MFU_CAUSAL] == pytest.approx(0.76)


def test_fp8_may_pass_the_peak_of_bf16_and_reach_twice_the_probe_in_it():
    fp8 = PeakFlops("card", "fp8", 2e9, "test")
    values = meter(PEAK, fp8, 1e9, most=2.0).shares(3.75e5, 4.0)
    assert values[names.MFU_CAUSAL] == values[names.MFU_MEASURED_PEAK] == pytest.approx(1.5)
    assert meter(PEAK, fp8, 1e9).shares(3.75e5, 4.0)[names.MFU_MEASURED_PEAK] is None


def test_a_peak_that_was_stated_too_low_is_named():
    assert impossible_rate(5e12, None) is impossible_rate(0.99e9, PEAK) is None
    assert "150% of the bf16 peak of card" in impossible_rate(1.5e9, PEAK)
    assert "metrics.peak_flops is too low" in impossible_rate(1.5e9, replace(PEAK, source="metrics.peak_flops"))


@pytest.mark.parametrize(("precision", "in_use"), [("fp32", "tf32"), ("bf16", "bf16"), ("fp8", "fp8")])
def test_mfu_is_of_the_bf16_peak_and_what_can_be_true_of_that_in_use(precision, in_use):
    rates = rates_of("NVIDIA H200", precision, None, 1.0)
    assert (rates.peak.precision, rates.peak_in_use.precision) == ("bf16", in_use)
    assert ("that of bf16, by which runs in fp8 are measured too" in rates.peak.source) == (precision == "fp8")
    assert (rates.measured, rates.most_of_measured) == (1.0, 2.0 if precision == "fp8" else 1.0)


def test_a_stated_peak_is_taken_for_a_device_that_no_table_knows():
    assert rates_of("a CPU", "fp32", None, None) == Rates(None, None, None)
    rates = rates_of("a CPU", "fp32", 2e12, None)
    assert rates.peak == rates.peak_in_use == PeakFlops("a CPU", "bf16", 2e12, "metrics.peak_flops")
    assert rates_of("NVIDIA H200", "bf16", 2e15, None).peak.flops == 2e15
