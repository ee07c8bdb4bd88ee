"""A kernel that no compilation mentions."""

import triton

from litespark.ops.triton_support import Compilation, Target
from tests.ops.toy_kernels import sound


@triton.jit
def forgotten(x):
    pass


def compilations(target: Target) -> list[Compilation]:
    return sound.compilations(target)
