"""A kernel that ends the process that compiles it, as a failed assertion inside of the compiler does."""

import os
from typing import Any

import triton
import triton.language as tl

from litespark.ops.triton_support import Launches, Target
from tests.ops.toy_kernels.sound import VECTOR


@tl.core.builtin
def _end(_semantic: Any = None) -> Any:
    os.abort()


@triton.jit
def the_last_words(x):
    _end()


def launches(target: Target) -> Launches:
    return [("bf16", lambda: the_last_words[(1,)](VECTOR))]
