"""The peak table answers the names that drivers report, with dense figures, and nothing else."""

import pytest
import torch

from litespark.metrics.hardware import _TABLE, lookup, measured_matmul_peak, mfu_peak


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("A100-SXM4-40GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A30", 165),
        ("NVIDIA A40", 149.7),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 4080", 97.5),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 5080", 112.6),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("NVIDIA RTX 6000 Ada Generation", 364.25),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 503.8),
        ("AMD Instinct MI250X", 191.5),
        ("AMD Instinct MI300X", 1307.4),
        ("AMD Instinct MI325X", 1307.4),
    ],
)
def test_reported_names_give_the_dense_bf16_peak(name, tera):
    peak = lookup(name, "bf16")
    assert peak is not None
    assert peak.flops == pytest.approx(tera * 1e12)
    assert peak.source
    assert peak.device == name


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4080 SUPER",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 5090 Laptop GPU",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA H200 MIG 1g.18gb",
        "NVIDIA A10G",
        "NVIDIA H20",
        "NVIDIA H800",
        "AMD Instinct MI250X / MI250",
        "NVIDIA GeForce GTX 1080 Ti",
        "Intel(R) Xeon(R)",
        "cpu",
        "",
    ],
)
def test_variants_slices_and_unknown_devices_have_no_peak(name):
    assert lookup(name, "bf16") is None
    assert mfu_peak(name) is None


def test_a_device_without_bf16_is_measured_against_fp16():
    assert lookup("Tesla V100-SXM2-16GB", "bf16") is None
    peak = mfu_peak("Tesla V100-SXM2-16GB")
    assert peak is not None
    assert (peak.precision, peak.flops) == ("fp16", 125e12)


def test_fp8_runs_are_still_quoted_against_bf16():
    peak = mfu_peak("NVIDIA H200")
    assert peak is not None
    assert peak.precision == "bf16"


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"precision: got 'bf16-mixed', expected one of bf16, fp16"):
        lookup("NVIDIA H200", "bf16-mixed")


@pytest.mark.parametrize("row", _TABLE, ids=lambda row: row.pattern)
def test_every_row_is_sourced_and_its_ratios_are_those_of_dense_figures(row):
    assert row.source
    if "bf16" in row.tera:
        # on every product here fp16 equals bf16, fp8 is twice and tf32 half of it; a sparse figure would break this
        assert row.tera["fp16"] == row.tera["bf16"]
        if "fp8" in row.tera:
            assert row.tera["fp8"] / row.tera["bf16"] == pytest.approx(2, rel=0.02)
        if "tf32" in row.tera:
            assert row.tera["tf32"] / row.tera["bf16"] == pytest.approx(0.5, rel=0.02)


def test_the_matmul_probe_is_positive_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    flops = measured_matmul_peak(torch.device("cpu"), torch.float32, seconds=0.05)
    assert 1e8 < flops < 1e14
    assert torch.equal(before, torch.get_rng_state())
