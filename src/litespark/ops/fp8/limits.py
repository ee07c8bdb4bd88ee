"""Where there are fp8 units, and where the fused pieces run; told without importing Triton."""

import torch

from litespark.device import device_of
from litespark.ops.rms_norm import limits as rms_norm
from litespark.ops.shapes import StepShapes

# Ada; NVIDIA PTX ISA, "mma", "cvt"
OLDEST_CAPABILITY = (8, 9)


def without_units(device: torch.device) -> str | None:
    """Why products of fp8 cannot be computed on `device`, which is named with what it has; None where they can."""
    there = device_of(device)
    if not there.is_nvidia_or_amd:
        return f"a device of type {device.type} has no fp8 units"
    name, capability = there.name, there.capability
    if capability is None:
        return f"{name} is not supported: products of fp8 are made for NVIDIA devices, and fp8 on AMD is not tried"
    if capability < OLDEST_CAPABILITY:
        return f"{name} has compute capability {'.'.join(map(str, capability))}, and fp8 units came with 8.9 (Ada)"
    return None


def why_not(device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None) -> str | None:
    """Why the fused pieces cannot run there, nor the ops' kernels that they go through else; None where they can."""
    if device_of(device).is_accelerator and (reason := without_units(device)) is not None:
        return reason
    return rms_norm.why_not(device, dtype, shapes)
