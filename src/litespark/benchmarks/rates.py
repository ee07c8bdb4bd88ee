"""What this device reaches: the rates that times are held against."""

from __future__ import annotations

import statistics

import torch

from litespark.ops.timing import interleaved_milliseconds

_COPY_BYTES = {"cuda": 2**30, "cpu": 2**26}


def copy_bandwidth(device: torch.device, seconds: float) -> float:
    """Bytes per second that a large copy within the device's memory reads and writes together."""
    size = _COPY_BYTES[device.type]
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    times = interleaved_milliseconds({"copy": lambda: target.copy_(source)}, device, seconds=seconds)["copy"]
    return 2 * size / (statistics.median(times) / 1e3)
