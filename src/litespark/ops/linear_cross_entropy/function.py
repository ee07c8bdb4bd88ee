"""Head projection and cross-entropy over chunks of tokens, the rows of each chunk in Triton. See `chunks`."""

from __future__ import annotations

import torch
from torch import Tensor

from litespark.ops.linear_cross_entropy.kernels import ROWS
from litespark.ops.linear_cross_entropy.operators import ChunkedLoss
from litespark.ops.linear_cross_entropy.reference import Reduction, TokenLosses

_triton = ChunkedLoss("triton", ROWS, (torch.float32, torch.bfloat16, torch.float16))


def linear_cross_entropy_triton(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "sum",
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor | TokenLosses:
    """The op of `reference.py` in fp32, bf16 and fp16; gradients of "sum" and "mean" are made in the forward pass.

    Arguments and errors: `ChunkedLoss`.
    """
    return _triton(
        hidden,
        weight,
        labels,
        recompute=False,
        ignore_index=ignore_index,
        reduction=reduction,
        z_loss=z_loss,
        softcap=softcap,
    )


def linear_cross_entropy_triton_recompute(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "sum",
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor | TokenLosses:
    """The op of `reference.py` in fp32, bf16 and fp16; the backward pass makes the logits again, no gradient is kept.

    Arguments and errors: `ChunkedLoss`.
    """
    return _triton(
        hidden,
        weight,
        labels,
        recompute=True,
        ignore_index=ignore_index,
        reduction=reduction,
        z_loss=z_loss,
        softcap=softcap,
    )
