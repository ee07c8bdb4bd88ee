"""Head projection and cross-entropy over chunks of tokens, the rows of each chunk in Triton. See `chunks`."""

import torch

from litespark.ops.linear_cross_entropy.kernels import ROWS
from litespark.ops.linear_cross_entropy.operators import ChunkedOps, chunked_loss

TRITON = ChunkedOps("triton", ROWS, (torch.float32, torch.bfloat16, torch.float16))

linear_cross_entropy_triton = chunked_loss(TRITON, recompute=False)
linear_cross_entropy_triton_recompute = chunked_loss(TRITON, recompute=True)
