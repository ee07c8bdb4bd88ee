"""Head projection and cross-entropy over chunks of tokens in plain PyTorch, for any device. See `chunks`."""

import torch

from litespark.ops.linear_cross_entropy.operators import ChunkedOps, chunked_loss
from litespark.ops.linear_cross_entropy.rows import ROWS

CHUNKED = ChunkedOps("chunked", ROWS, (torch.float32, torch.bfloat16, torch.float16, torch.float64))

linear_cross_entropy_chunked = chunked_loss(CHUNKED, recompute=False)
linear_cross_entropy_chunked_recompute = chunked_loss(CHUNKED, recompute=True)
