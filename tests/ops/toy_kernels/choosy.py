"""Kernels for devices with fp8 units only."""

from litespark.ops.triton_support import needs_fp8
from tests.ops.toy_kernels.sound import copy, launches

__all__ = ["copy", "launches"]
not_for = needs_fp8
