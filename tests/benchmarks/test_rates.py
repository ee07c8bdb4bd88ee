"""Rates that a roofline is made of, measured on a CPU, and with a clock that is not real."""

import dataclasses

import pytest
import torch

from litespark.benchmarks import rates
from litespark.benchmarks.rates import measured_rates
from litespark.models.llama.config import LlamaConfig
from litespark.ops.shapes import Place
from litespark.ops.verification import Verification

CPU = torch.device("cpu")
TINY = LlamaConfig(
    "tiny",
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=128,
    vocab_size=300,
    max_seq_len=8192,
)


def _place(length=64, rows=2, documents=False, dtype=torch.float32):
    return Place(CPU, dtype, TINY.step_shapes(rows, length, documents))


def test_each_rate_is_measured():
    found = measured_rates(TINY, _place(), seconds=0.2)
    assert found.matmul_flops > 1e8
    assert found.copy_bytes > 1e8
    assert found.attention_flops > 0
    assert found.peak_flops is None
    assert found.peak_source is None
    assert found.fp8_matmul_flops is None


def test_attention_counts_the_pairs_of_whole_rows_over_the_best_time_of_the_fastest(monkeypatch):
    times = {"sdpa": [4.0, 5.0], "reference": [9.0, 2.0]}
    monkeypatch.setattr(rates, "interleaved_milliseconds", lambda runs, device, seconds: times)
    # 8 rows · 12 · H 4 · Dh 16 · (64 · 65 / 2 pairs) / 2 ms
    expected = 8 * 12 * 4 * 16 * 2080 / 2e-3
    assert rates._attention_flops(_place(rows=8), 1.0, 1e12) == pytest.approx(expected)
    assert rates._attention_flops(_place(rows=8, documents=True), 1.0, 1e12) == pytest.approx(expected)
    # at 50 MFLOP/s all rows would take longer than a second: 7 calls of 0.26 s
    assert rates._attention_flops(_place(rows=8), 1.0, 50e6) == pytest.approx(expected / 8)


def test_a_copy_reads_and_writes_all_its_bytes(monkeypatch):
    monkeypatch.setattr(rates, "interleaved_milliseconds", lambda runs, device, seconds: {"copy": [40.0, 10.0, 20.0]})
    # 64 MiB read and 64 MiB written in 20 ms
    assert rates.copy_bandwidth(CPU, 1.0) == pytest.approx(2 * 64 * 2**20 / 20e-3)


def test_the_rate_in_fp8_is_of_two_operations_for_each_multiplication(monkeypatch):
    place, real = _place(dtype=torch.bfloat16), torch.randn
    monkeypatch.setattr(rates, "_FP8_SIZE", 32)
    monkeypatch.setattr(rates, "interleaved_milliseconds", lambda runs, device, seconds: {"product": [4.0, 2.0]})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Testboard")
    monkeypatch.setattr(torch, "Generator", lambda device: torch.default_generator)
    monkeypatch.setattr(torch, "randn", lambda *size, generator, device: real(*size))
    monkeypatch.setattr(torch, "ones", lambda *size, device: torch.tensor(1.0))
    on_gpu = dataclasses.replace(place, device=torch.device("cuda", 0))
    assert rates._fp8_matmul_flops(on_gpu, 1.0) == pytest.approx(2 * 32**3 / 2e-3)
    assert rates._fp8_matmul_flops(dataclasses.replace(on_gpu, dtype=torch.float32), 1.0) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert rates._fp8_matmul_flops(on_gpu, 1.0) is None


def test_the_reference_is_no_candidate_where_its_scores_are_large():
    # 4 bytes · 4 heads · 8192² = 1 GiB
    assert "reference" not in rates._attention_backends(_place(rows=1, length=8192))
    assert rates._attention_backends(_place()) == ["sdpa", "reference"]


def test_attention_whose_verification_fails_has_no_rate(monkeypatch, caplog):
    verification = Verification("attention", "sdpa", "a case", "B 1", "fp32", False, 0.1, (), error="it is wrong")
    monkeypatch.setattr(rates, "verify", lambda *_, **__: [verification])
    assert rates._attention_backends(_place()) == ["reference"]
    assert "sdpa is left out of the rates: its verification failed" in caplog.text


def test_attention_that_takes_too_long_is_not_measured(caplog):
    # 12 · 4 · 16 · 33.6e6 pairs = 25.8 GFLOP a call: 26 s at 1 GFLOP/s
    assert rates._attention_flops(_place(length=8192), 0.1, 1e9) is None
    assert "one call takes at least 26 s" in caplog.text


def test_the_peak_that_the_user_states_is_kept_with_its_source():
    found = measured_rates(TINY, _place(), seconds=0.01, peak_flops=1e12)
    assert (found.peak_flops, found.peak_source) == (1e12, "metrics.peak_flops")


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_the_time_is_positive(seconds):
    with pytest.raises(ValueError, match="seconds: got"):
        measured_rates(TINY, _place(), seconds=seconds)
