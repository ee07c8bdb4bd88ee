"""Rates that a roofline is made of, measured on a CPU, and with a clock that is not real."""

from dataclasses import replace

import pytest
import torch

from litespark.benchmarks import rates
from litespark.benchmarks.rates import measured_rates
from litespark.ops.shapes import Place, StepShapes

CPU = torch.device("cpu")


def _place(length=64, sequences=2, documents=False, dtype=torch.float32):
    return Place(CPU, dtype, StepShapes(sequences, length, 64, 4, 2, 16, 128, 300, documents))


def test_each_rate_is_measured_and_the_peak_that_the_user_states_is_kept_with_its_source():
    found = measured_rates(_place(), seconds=0.2)
    assert found.matmul_flops > 1e8
    assert found.copy_bytes > 1e8
    assert found.attention_flops > 0
    assert (found.peak_flops, found.peak_source, found.fp8_matmul_flops) == (None, None, None)
    found = measured_rates(_place(), seconds=0.01, peak_flops=1e12)
    assert (found.peak_flops, found.peak_source) == (1e12, "metrics.peak_flops")


def test_attention_counts_the_pairs_of_whole_sequences_over_the_best_time_of_the_fastest(monkeypatch, caplog):
    times = {"sdpa": [4.0, 5.0], "reference": [9.0, 2.0]}
    monkeypatch.setattr(rates, "interleaved_milliseconds", lambda runs, device, seconds: times)
    # 8 sequences · 12 · H 4 · Dh 16 · (64 · 65 / 2 pairs) / 2 ms
    expected = 8 * 12 * 4 * 16 * 2080 / 2e-3
    assert rates._attention_flops(_place(sequences=8), 1.0, 1e12) == pytest.approx(expected)
    assert rates._attention_flops(_place(sequences=8, documents=True), 1.0, 1e12) == pytest.approx(expected)
    # at 50 MFLOP/s all sequences would take longer than a second: 7 calls of 0.26 s
    assert rates._attention_flops(_place(sequences=8), 1.0, 50e6) == pytest.approx(expected / 8)
    # 12 · 4 · 16 · 33.6e6 pairs = 25.8 GFLOP a call: 26 s at 1 GFLOP/s
    assert rates._attention_flops(_place(length=8192), 0.1, 1e9) is None
    assert "one call takes at least 26 s" in caplog.text


def test_a_copy_reads_and_writes_all_its_bytes(monkeypatch):
    monkeypatch.setattr(rates, "interleaved_milliseconds", lambda runs, device, seconds: {"copy": [40.0, 10.0, 20.0]})
    # 64 MiB read and 64 MiB written in 20 ms
    assert rates.copy_bandwidth(CPU, 1.0) == pytest.approx(2 * 64 * 2**20 / 20e-3)


def test_the_rate_in_fp8_is_of_two_operations_for_each_multiplication(monkeypatch):
    real = torch.randn
    monkeypatch.setattr(rates, "_FP8_SIZE", 32)
    monkeypatch.setattr(rates, "interleaved_milliseconds", lambda runs, device, seconds: {"product": [4.0, 2.0]})
    monkeypatch.setattr(rates, "without_units", lambda device: None)
    monkeypatch.setattr(torch, "randn", lambda *size, generator, device: real(*size))
    place = _place(dtype=torch.bfloat16)
    assert rates._fp8_matmul_flops(place, 1.0) == pytest.approx(2 * 32**3 / 2e-3)
    assert rates._fp8_matmul_flops(replace(place, dtype=torch.float32), 1.0) is None
    monkeypatch.undo()
    assert rates._fp8_matmul_flops(place, 1.0) is None


def test_attention_that_is_wrong_and_a_reference_whose_scores_are_large_are_no_candidates(monkeypatch, caplog):
    # 4 bytes · 4 heads · 8192² = 1 GiB
    assert "reference" not in rates._attention_backends(_place(sequences=1, length=8192))
    assert list(rates._attention_backends(_place())) == ["sdpa", "reference"]
    monkeypatch.setattr(rates, "why_wrong", lambda *arguments: "it is wrong")
    assert list(rates._attention_backends(_place())) == ["reference"]
    assert "sdpa is left out of the rates: its verification failed" in caplog.text
