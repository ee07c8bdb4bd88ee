"""Peak FLOP/s of devices: what the vendor states (dense, matrix units), and what a matmul reaches here.

One row a product, its source beside it, and no row rather than a guess. The full reported name is matched, so that a
laptop, MIG or regional variant is not taken for its bigger sibling. Vendors headline the figure with 2:4 sparsity; it
is halved here, once. Where a product accumulates slower in fp32 than in fp16 (GeForce), the fp32 figure counts.
"""

import re
import time
from dataclasses import dataclass
from typing import Literal

import torch

from litespark.device import device_of

Precision = Literal["bf16", "fp16", "fp8", "tf32"]


@dataclass(frozen=True)
class PeakFlops:
    """A vendor's dense peak: ``flops`` in FLOP/s of one device as the driver counts devices, with its source."""

    device: str
    precision: Precision
    flops: float
    source: str


_HOPPER_SXM: dict[Precision, float] = {"bf16": 989.4, "fp8": 1978.9, "tf32": 494.7}
_HOPPER_NVL: dict[Precision, float] = {"bf16": 835.5, "fp8": 1670.5, "tf32": 417.5}
_B200_HGX: dict[Precision, float] = {"bf16": 2250.0, "fp8": 4500.0}
_BLACKWELL_GRACE: dict[Precision, float] = {"bf16": 2500.0, "fp8": 5000.0, "tf32": 1250.0}
_CDNA3: dict[Precision, float] = {"bf16": 1307.4, "fp8": 2614.9, "tf32": 653.7}

_ADA = "NVIDIA Ada GPU architecture whitepaper, appendix A, fp32 accumulate"
_RTX_BLACKWELL = "NVIDIA RTX Blackwell GPU architecture whitepaper, appendix A, fp32 accumulate"

# a pattern for the whole reported name (vendor prefix removed), dense TFLOP/s by precision, source; "halved" where the
# source prints only the figure with sparsity
_TABLE: tuple[tuple[str, dict[Precision, float], str], ...] = (
    # Volta has tensor cores for fp16 only
    (r"V100-SXM2-(16|32)GB", {"fp16": 125.0}, "NVIDIA V100 datasheet (2020): SXM2 125 TFLOPS tensor"),
    (r"V100-PCIE-(16|32)GB", {"fp16": 112.0}, "NVIDIA V100 datasheet (2020): PCIe 112 TFLOPS tensor"),
    (r"V100S-PCIE-32GB", {"fp16": 130.0}, "NVIDIA V100 datasheet (2020): V100S 130 TFLOPS tensor"),
    # Ampere
    (r"A100-SXM4-(40|80)GB|A100-PCIE-40GB|A100 80GB PCIe", {"bf16": 312.0, "tf32": 156.0},
     "NVIDIA A100 datasheet (1758950 r4)"),
    (r"A10", {"bf16": 125.0, "tf32": 62.5}, "NVIDIA A10 datasheet (2021)"),
    (r"A30", {"bf16": 165.0, "tf32": 82.0}, "NVIDIA A30 datasheet (2022)"),
    (r"A40", {"bf16": 149.7, "tf32": 74.8}, "NVIDIA A40 datasheet (2021)"),
    (r"GeForce RTX 3090", {"bf16": 71.0, "tf32": 35.6},
     "NVIDIA Ampere GA102 whitepaper v2.1, appendix A, fp32 accumulate"),
    # Ada
    (r"L4", {"bf16": 121.0, "fp8": 242.5, "tf32": 60.0}, "NVIDIA L4 datasheet (2023), sparse figure halved"),
    (r"L40", {"bf16": 181.05, "fp8": 362.0, "tf32": 90.5}, "NVIDIA L40 datasheet (2023)"),
    (r"L40S", {"bf16": 362.05, "fp8": 733.0, "tf32": 183.0}, "NVIDIA L40S datasheet (2023)"),
    (r"RTX 6000 Ada Generation", {"bf16": 364.25, "fp8": 728.5},
     "NVIDIA RTX 6000 Ada datasheet (2023): 1457 TFLOPS fp8 sparse, halved; bf16 is half of fp8"),
    (r"GeForce RTX 4090", {"bf16": 165.2, "fp8": 330.3, "tf32": 82.6}, _ADA),
    (r"GeForce RTX 4080", {"bf16": 97.5, "fp8": 194.9, "tf32": 48.7}, _ADA),
    # Hopper
    (r"H100 80GB HBM3", _HOPPER_SXM, "NVIDIA H100 architecture whitepaper v1.04, SXM5"),
    (r"H100 PCIe", {"bf16": 756.5, "fp8": 1513.0, "tf32": 378.0},
     "NVIDIA H100 datasheet (2023): PCIe 1513 TFLOPS bf16 sparse, halved"),
    (r"H100 NVL", _HOPPER_NVL, "NVIDIA H100 datasheet (2024): NVL 1671 TFLOPS bf16 sparse, halved"),
    (r"H200", _HOPPER_SXM, "NVIDIA H200 datasheet (2024): SXM 1979 TFLOPS bf16 sparse, halved"),
    (r"H200 NVL", _HOPPER_NVL, "NVIDIA H200 datasheet (2024): NVL 1671 TFLOPS bf16 sparse, halved"),
    (r"GH200 (480GB|144G HBM3e)", _HOPPER_SXM, "NVIDIA GH200 datasheet (2024): 1979 TFLOPS bf16 sparse, halved"),
    # Blackwell
    (r"B200", _B200_HGX, "NVIDIA Blackwell datasheet (2024): HGX B200 4.5 PFLOPS bf16 sparse a GPU, halved"),
    (r"GB200", _BLACKWELL_GRACE, "NVIDIA Blackwell datasheet (2024): GB200 NVL72 5 PFLOPS bf16 sparse a GPU, halved"),
    (r"B300 SXM6 AC", _B200_HGX,
     "NVIDIA HGX B300 specifications (2025): 36 PFLOPS bf16 and 72 PFLOPS fp8 sparse over 8 GPUs, halved"),
    (r"GeForce RTX 5090", {"bf16": 209.5, "fp8": 419.0, "tf32": 104.8}, _RTX_BLACKWELL),
    (r"GeForce RTX 5080", {"bf16": 112.6, "fp8": 225.1, "tf32": 56.3}, _RTX_BLACKWELL),
    (r"RTX PRO 6000 Blackwell Workstation Edition", {"bf16": 503.8, "fp8": 1007.6},
     "NVIDIA RTX PRO Blackwell whitepaper: 4030 TFLOPS fp4 sparse; bf16 dense is an eighth"),
    (r"RTX PRO 6000 Blackwell Max-Q Workstation Edition", {"bf16": 438.9, "fp8": 877.8},
     "NVIDIA RTX PRO 6000 Max-Q datasheet: 3511 TFLOPS fp4 sparse; bf16 dense is an eighth"),
    # CDNA; the driver shows each of the two dies of an MI250X as a device of its own
    (r"MI250X", {"bf16": 191.5}, "AMD Instinct MI250X data sheet: 383 TFLOPS a card, two dies"),
    (r"MI300X", _CDNA3, "AMD Instinct MI300X data sheet (2023)"),
    (r"MI325X", _CDNA3, "AMD Instinct MI325X data sheet (2024)"),
)  # fmt: skip

_VENDOR = re.compile(r"^(NVIDIA|Tesla|AMD Instinct)\s+", re.IGNORECASE)


def lookup(device_name: str, precision: Precision = "bf16") -> PeakFlops | None:
    """The vendor's dense peak for a device by the name its driver reports; None where it is not in the table."""
    name = " ".join(device_name.split())
    while (shorter := _VENDOR.sub("", name)) != name:  # older drivers: "Tesla V100-…", newer: "NVIDIA …"
        name = shorter
    for pattern, by_precision, source in _TABLE:
        # the matrix units that came with Ampere and later take bf16 as fast as fp16
        tera = by_precision.get(precision, by_precision.get("bf16") if precision == "fp16" else None)
        if tera is not None and re.fullmatch(pattern, name, re.IGNORECASE):
            return PeakFlops(device_name, precision, tera * 1e12, source)
    return None


def mfu_peak(device_name: str) -> PeakFlops | None:
    """The peak that MFU is quoted against: dense bf16 for every run, fp16 on the devices that have no bf16."""
    return lookup(device_name, "bf16") or lookup(device_name, "fp16")


def measured_matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP/s that a square ``torch.matmul`` reaches on this device: the best of a short probe.

    Operands are random: zeros draw less power and run at higher clocks. Memory of the probe stays with the allocator:
    reset peak memory statistics afterwards.
    """
    size, largest = (1024, 8192) if device_of(device).is_accelerator else (256, 2048)
    while size < largest and _matmul_seconds(device, dtype, size, repeats=2)[-1] < seconds / 40:
        size *= 2
    timings: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(timings) < 3 or time.perf_counter() < deadline:
        timings += _matmul_seconds(device, dtype, size, repeats=4)[1:]  # the first of each call warms up
    return 2 * size**3 / min(timings)


def _matmul_seconds(device: torch.device, dtype: torch.dtype, size: int, repeats: int) -> list[float]:
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    synchronise, timings = device_of(device).synchronise, []
    with torch.no_grad():
        for _ in range(repeats):
            synchronise()
            start = time.perf_counter()
            torch.matmul(left, right, out=product)
            synchronise()
            timings.append(time.perf_counter() - start)
    return timings
