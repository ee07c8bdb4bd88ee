"""The roofline of a step against numbers worked out by hand for a 3 B model, and what must hold of any."""

from dataclasses import replace

import pytest

from litespark.metrics.records.step import RatesRecord
from litespark.planning.flops import causal_mean_keys
from litespark.planning.roofline import KERNEL_CLASSES, roofline
from tests.models.small import R3

# T = 4 · 4096 = 16 384 tokens
RATES = RatesRecord(matmul_flops=790e12, copy_bytes=4.3e12, attention_flops=438e12)
MEAN_KEYS = causal_mean_keys(4096)
MEMORY_BOUND = ("norm", "rope", "activation", "loss", "copies")


def bounds(config=R3, *, rates=RATES, precision="bf16", accumulate=1, mean_keys=MEAN_KEYS):
    shapes = config.step_shapes(4, 4096, documents=False)
    return roofline(config, shapes, rates, precision=precision, accumulate=accumulate, mean_keys=mean_keys)


def test_the_worked_example_in_bf16():
    found = bounds()
    assert tuple(found) == KERNEL_CLASSES
    # blocks: 28 · (3072·2·32·128 + 3·3072·8192) = 2 818 572 288; head: 32000·3072 = 98 304 000
    # 6 · 2 916 876 288 · 16 384 / 790e12 = 363.0 ms
    assert round(found["gemm"]) == 363
    # 12 · 28 · 24·128 · 2048.5 · 16 384 / 438e12 = 79.1 ms
    assert round(found["attention"]) == 79
    # 3 015 355 392 parameters · (16 read + 12 written + 2 narrow copy) bytes / 4.3e12 = 21.0 ms
    assert round(found["optimizer"]) == 21
    # bytes of a token in a layer: two add_rms_norm 2·(4D + 4D)·2 = 98 304, swiglu 8F·2 = 131 072, rope
    # (2·32 + 2·40)·128·2 = 36 864, together 266 240 and in 28 layers of 16 384 tokens 122.1e9: 28.4 ms;
    # rms_norm 5D·2·T = 0.50e9, logits 2·32000·2·T = 2.10e9, embedding 4D·2·T = 0.40e9: 0.7 ms
    assert round(sum(found[name] for name in MEMORY_BOUND)) == 29
    assert found["norm"] == pytest.approx(1e3 * (28 * 98304 + 5 * 3072 * 2) * 16384 / 4.3e12, rel=1e-3)
    assert found["activation"] == pytest.approx(1e3 * 28 * 131072 * 16384 / 4.3e12)
    assert found["rope"] == pytest.approx(1e3 * 28 * 36864 * 16384 / 4.3e12, rel=0.01)  # and the tables, under 1 %
    assert found["loss"] == pytest.approx(1e3 * 2 * 32000 * 2 * 16384 / 4.3e12)
    assert found["copies"] == pytest.approx(1e3 * 4 * 3072 * 2 * 16384 / 4.3e12)
    assert found["idle"] == 0
    assert round(sum(found.values())) == 492


@pytest.mark.parametrize(("rate", "whole"), [(1500e12, 332), (1200e12, 378)])
def test_the_worked_example_in_fp8(rate, whole):
    found = bounds(rates=replace(RATES, fp8_matmul_flops=rate), precision="fp8")
    # blocks 6 · 2 818 572 288 · 16 384 = 277.1e12 at the rate of fp8, head 9.66e12 at 790e12: 12.2 ms
    assert found["gemm"] == pytest.approx(1e3 * 277.077e12 / rate + 12.23, abs=0.05)
    # operands of a token in a layer: inputs 3·3072 + 8192, gradients 5120 + 2·3072 + 16384, one byte each: 45 056;
    # and the weights: (28 · 45 056 · 16 384 + 2.82e9) / 4.3e12 = 5.5 ms beside the embedding's 0.1
    assert found["copies"] == pytest.approx(5.46 + 0.09, abs=0.01)
    assert round(sum(found.values())) == whole


def test_a_step_of_more_micro_batches_takes_as_much_more_but_for_the_optimizer():
    one, four = bounds(), bounds(accumulate=4)
    assert four["optimizer"] == one["optimizer"]
    for name in set(KERNEL_CLASSES) - {"optimizer"}:
        assert four[name] == pytest.approx(4 * one[name])
    assert bounds(mean_keys=512)["attention"] == pytest.approx(bounds(mean_keys=2048)["attention"] / 4)


def test_fp32_moves_twice_the_bytes_and_keeps_no_narrow_copy():
    narrow, wide = bounds(), bounds(precision="fp32")
    for name in ("norm", "activation", "loss", "copies"):
        assert wide[name] == pytest.approx(2 * narrow[name])
    assert wide["rope"] == pytest.approx(2 * narrow["rope"], rel=0.01)  # its tables are fp32 in both
    assert wide["optimizer"] == pytest.approx(narrow["optimizer"] * 28 / 30)
    assert wide["gemm"] == narrow["gemm"]  # at the same rate


@pytest.mark.parametrize("missing", ["matmul_flops", "copy_bytes", "fp8_matmul_flops"])
def test_without_a_rate_that_it_needs_there_is_none(missing):
    rates = replace(RATES, **({"fp8_matmul_flops": 1500e12} | {missing: None}))
    assert bounds(rates=rates, precision="fp8") == {}
    assert bool(bounds(rates=rates)) is (missing == "fp8_matmul_flops")
