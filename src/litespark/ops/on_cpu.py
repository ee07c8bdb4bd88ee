"""What the backends named `cpu` share: their passes over memory are few, since a CPU is bound by them."""

import torch

from litespark.device import device_of
from litespark.ops.shapes import StepShapes


def why_not(device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None) -> str | None:
    """Why a backend named `cpu` is not for that device; None where it is."""
    return f"it is for CPUs, not for {device.type}" if device_of(device).is_accelerator else None
