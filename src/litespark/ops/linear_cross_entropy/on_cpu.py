"""Head projection and cross-entropy over chunks of tokens, whose rows a CPU takes in one pass. See `chunked`."""

from functools import partial

import torch
from torch import Tensor

from litespark.ops import on_cpu
from litespark.ops.linear_cross_entropy import chunks, rows
from litespark.ops.linear_cross_entropy.chunked import linear_cross_entropy_chunked
from litespark.ops.linear_cross_entropy.reference import Reduction, TokenLosses, check_linear_cross_entropy
from litespark.ops.linear_cross_entropy.rows import Losses, Settings, gradient_
from litespark.ops.shapes import Place

__all__ = ["bytes_per_logit", "gradient_", "linear_cross_entropy_cpu", "losses", "structure"]

_GATHERED = 64
"""Ignored labels from which on the tokens of the others are gathered before they are multiplied with the head."""


def linear_cross_entropy_cpu(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "sum",
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor | TokenLosses:
    """See `litespark.ops.linear_cross_entropy.reference`; tokens whose labels are ignored cost nothing."""
    check_linear_cross_entropy(hidden, weight, labels, reduction, z_loss, softcap)
    compute = partial(
        linear_cross_entropy_chunked,
        ignore_index=ignore_index,
        reduction=reduction,
        z_loss=z_loss,
        softcap=softcap,
        rows="on_cpu",
    )
    if not on_cpu.takes(hidden):
        return compute(hidden, weight, labels)
    flat = labels.reshape(-1)
    counted = (flat != ignore_index).nonzero().squeeze(1)
    if len(flat) - len(counted) < _GATHERED or not len(counted):
        return compute(hidden, weight, labels)
    found = compute(hidden.reshape(-1, hidden.shape[-1]).index_select(0, counted), weight, flat[counted])
    if not isinstance(found, TokenLosses):
        return found
    nats = found.nats.new_zeros(len(flat)).index_copy(0, counted, found.nats)
    correct = found.correct.new_zeros(len(flat)).index_copy(0, counted, found.correct)
    return TokenLosses(nats.view(labels.shape), correct.view(labels.shape))


def bytes_per_logit(dtype: torch.dtype) -> int:
    """More than it takes: small chunks stay in a cache. In bf16 each further one rounds the gradient of the weight."""
    return rows.bytes_per_logit(dtype) * (8 if dtype == torch.float32 else 1)


def structure(place: Place) -> set[str]:
    """The structural cases, see `litespark.ops.structure`."""
    return chunks.structure(place, bytes_per_logit(place.dtype))


def losses(logits: Tensor, labels: Tensor, settings: Settings, with_gradient: bool) -> Losses:
    """See `rows.losses`; with a gradient, and without a soft cap, in one pass."""
    if not with_gradient or settings.softcap or not on_cpu.takes(logits):
        return rows.losses(logits, labels, settings, with_gradient)
    results, labels = logits.new_empty(3, len(labels), dtype=torch.float32), labels.contiguous()
    on_cpu.run(
        "losses_and_gradients", *logits.shape, logits.stride(0), logits, labels.data_ptr(), settings.ignore_index,
        settings.z_loss, results.data_ptr(),
    )  # fmt: skip
    loss, maximum, sum_exp = results
    return Losses(loss, maximum, sum_exp, torch.zeros_like(labels, dtype=torch.bool))
