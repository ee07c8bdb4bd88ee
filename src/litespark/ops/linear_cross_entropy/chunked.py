"""Head projection and cross-entropy over chunks of tokens in plain PyTorch, for any device. See `chunks`."""

from __future__ import annotations

import torch
from torch import Tensor

from litespark.ops.linear_cross_entropy.operators import ChunkedLoss
from litespark.ops.linear_cross_entropy.reference import Reduction, TokenLosses
from litespark.ops.linear_cross_entropy.rows import ROWS

_chunked = ChunkedLoss("chunked", ROWS, (torch.float32, torch.bfloat16, torch.float16, torch.float64))


def linear_cross_entropy_chunked(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "sum",
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor | TokenLosses:
    """The op of `reference.py`; gradients of "sum" and "mean" are made in the forward pass.

    Arguments and errors: `ChunkedLoss`.
    """
    return _chunked(
        hidden,
        weight,
        labels,
        recompute=False,
        ignore_index=ignore_index,
        reduction=reduction,
        z_loss=z_loss,
        softcap=softcap,
    )


def linear_cross_entropy_chunked_recompute(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "sum",
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor | TokenLosses:
    """The op of `reference.py`; the backward pass makes the logits again, no gradient is kept.

    Arguments and errors: `ChunkedLoss`.
    """
    return _chunked(
        hidden,
        weight,
        labels,
        recompute=True,
        ignore_index=ignore_index,
        reduction=reduction,
        z_loss=z_loss,
        softcap=softcap,
    )
