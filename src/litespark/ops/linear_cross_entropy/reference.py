"""Head projection and cross-entropy in plain PyTorch: the specification that faster backends are tested against."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Reduction = Literal["sum", "none"]


class TokenLosses(NamedTuple):
    """What is known of each predicted token.

    nats: fp32, the shape of the labels; -log p(label), 0 where the label is ignored.
    correct: bool, the shape of the labels; is the label the likeliest token? False where it is ignored.
    """

    nats: Tensor
    correct: Tensor


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, ignore_index: int = -100, reduction: Reduction = "sum"
) -> Tensor | TokenLosses:
    """logits = hidden · weightᵀ; loss = logsumexp(logits) - logits[label], in nats, in fp32 whatever the inputs.

    One op, so that a backend need not hold all logits at once (Wijmans et al., arXiv:2411.09009).

    Args:
        hidden: (..., D), any floating dtype (fp64 stays fp64).
        weight: (V, D).
        labels: (...) int64 in 0..V-1 or `ignore_index`.
        ignore_index: label of tokens that are left out.
        reduction: "sum" for the scalar sum over the labels that count (0 if there are none), "none" for `TokenLosses`.

    Raises:
        ValueError: unknown reduction, or `labels` does not have the shape of `hidden` without its last dimension.
    """
    if reduction not in ("sum", "none"):
        raise ValueError(f"linear_cross_entropy: reduction is {reduction!r}; expected 'sum' or 'none'")
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(
            f"linear_cross_entropy: labels {tuple(labels.shape)} for hidden {tuple(hidden.shape)}; "
            f"expected {tuple(hidden.shape[:-1])}"
        )
    logits = functional.linear(hidden, weight).flatten(0, -2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nats = functional.cross_entropy(logits, labels.flatten(), ignore_index=ignore_index, reduction=reduction)
    if reduction == "sum":
        return nats
    # a label that is ignored is no token id, so it can never be the likeliest one
    correct = logits.argmax(dim=-1) == labels.flatten()
    return TokenLosses(nats.view(labels.shape), (correct & (labels.flatten() != ignore_index)).view(labels.shape))
