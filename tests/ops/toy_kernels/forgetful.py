"""A kernel that is never launched."""

import triton

from tests.ops.toy_kernels.sound import launches

__all__ = ["launches"]


@triton.jit
def forgotten(x):
    pass
