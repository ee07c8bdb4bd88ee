"""Kernels for devices with fp8 units only."""

from litespark.ops.triton_support import needs_fp8
from tests.ops.toy_kernels.sound import compilations, copy

__all__ = ["compilations", "copy"]
not_for = needs_fp8
