"""What the RMSNorm kernels cannot take, told without importing Triton."""

import torch

from litespark.ops import triton_support
from litespark.ops.shapes import StepShapes

# a row is held in registers
WIDEST = 16384
# two rows are where an update's norm is added in the same kernel; wider ones are normed by themselves
WIDEST_OF_UPDATE = 8192


def why_not(device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None) -> str | None:
    """Why the kernels cannot run there; None where they can."""
    if shapes is not None and shapes.hidden_size > WIDEST:
        return f"the kernels hold a row of at most {WIDEST} in registers, not {shapes.hidden_size}"
    return triton_support.why_not(device, dtype, shapes)
