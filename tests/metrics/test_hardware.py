"""The peak table answers the names that drivers report, with dense figures, and nothing else."""

import pytest

from litespark.metrics.hardware import _TABLE, lookup, mfu_peak

# dense bf16 TFLOP/s by the name that the driver reports
REPORTED = {
    "NVIDIA A100-SXM4-40GB": 312, "NVIDIA A100-SXM4-80GB": 312, "A100-SXM4-40GB": 312, "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312, "NVIDIA A10": 125, "NVIDIA A30": 165, "NVIDIA A40": 149.7, "NVIDIA L4": 121,
    "NVIDIA L40": 181.05, "NVIDIA L40S": 362.05, "NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H100 PCIe": 756.5,
    "NVIDIA H100 NVL": 835.5, "NVIDIA H200": 989.4, "NVIDIA H200 NVL": 835.5, "NVIDIA GH200 480GB": 989.4,
    "NVIDIA B200": 2250, "NVIDIA GB200": 2500, "NVIDIA B300 SXM6 AC": 2250, "NVIDIA GeForce RTX 3090": 71,
    "NVIDIA GeForce RTX 4080": 97.5, "NVIDIA GeForce RTX 4090": 165.2, "NVIDIA GeForce RTX 5080": 112.6,
    "NVIDIA GeForce RTX 5090": 209.5, "NVIDIA RTX 6000 Ada Generation": 364.25,
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": 503.8, "AMD Instinct MI250X": 191.5,
    "AMD Instinct MI300X": 1307.4, "AMD Instinct MI325X": 1307.4,
}  # fmt: skip
UNKNOWN = (
    "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4080 SUPER",
    "NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 5090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA H200 MIG 1g.18gb", "NVIDIA A10G", "NVIDIA H20", "NVIDIA H800",
    "AMD Instinct MI250X / MI250", "NVIDIA GeForce GTX 1080 Ti", "Intel(R) Xeon(R)", "cpu", "",
)  # fmt: skip


def test_reported_names_give_the_dense_bf16_peak():
    for name, tera in REPORTED.items():
        peak = mfu_peak(name)
        assert peak is not None, name
        assert peak.flops == pytest.approx(tera * 1e12), name
        assert (peak.device, peak.precision, bool(peak.source)) == (name, "bf16", True)


def test_variants_slices_and_unknown_devices_have_no_peak():
    assert {name: mfu_peak(name) for name in UNKNOWN} == dict.fromkeys(UNKNOWN)


def test_every_row_is_sourced_and_its_ratios_are_those_of_dense_figures():
    for pattern, tera, source in _TABLE:
        assert source
        # on every product here fp8 is twice bf16 and tf32 half of it; a sparse figure would break this
        for precision, times in (("fp8", 2), ("tf32", 0.5)):
            if precision in tera:
                assert tera[precision] / tera["bf16"] == pytest.approx(times, rel=0.02), pattern
    assert lookup("NVIDIA H200", "fp16").flops == lookup("NVIDIA H200", "bf16").flops
    assert lookup("Tesla V100-SXM2-16GB", "bf16") is None
    assert (mfu_peak("Tesla V100-SXM2-16GB").precision, mfu_peak("Tesla V100-SXM2-16GB").flops) == ("fp16", 125e12)
