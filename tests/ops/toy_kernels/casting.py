"""A kernel that casts to fp8, launched on every target; not all of them can."""

import torch
import triton
import triton.language as tl

from litespark.ops.triton_support import Launches, Target, on_meta


@triton.jit
def cast_to_fp8(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at).to(tl.float8e4nv).to(tl.uint8, bitcast=True))


def launches(target: Target) -> Launches:
    return [("", lambda: cast_to_fp8[(1,)](on_meta(1024, torch.float32), on_meta(1024, torch.uint8), BLOCK=1024))]
