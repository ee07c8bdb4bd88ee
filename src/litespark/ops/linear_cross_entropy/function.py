"""Head projection and cross-entropy over chunks of tokens, the rows of each chunk in Triton. See `chunked`."""

from functools import partial

from litespark.ops.linear_cross_entropy import kernels  # noqa: F401 (without Triton this fails here, and not later)
from litespark.ops.linear_cross_entropy.chunked import linear_cross_entropy_chunked

linear_cross_entropy_triton = partial(linear_cross_entropy_chunked, rows="kernels")
linear_cross_entropy_triton_recompute = partial(linear_cross_entropy_triton, recompute=True)
