"""Head projection and cross-entropy in plain PyTorch: the specification that faster backends are tested against."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Reduction = Literal["sum", "mean", "none"]


class TokenLosses(NamedTuple):
    """What is known of each predicted token.

    nats: fp32, the shape of the labels; -log p(label), 0 where the label is ignored.
    correct: bool, the shape of the labels; is the label the likeliest token? False where it is ignored.
    """

    nats: Tensor
    correct: Tensor


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "sum",
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor | TokenLosses:
    """logits = hidden · weightᵀ; loss = logsumexp(logits) - logits[label], in nats, in fp32 whatever the inputs.

    One op, so that a backend need not hold all logits at once (Wijmans et al., arXiv:2411.09009).

    Args:
        hidden: (..., D), any floating dtype (fp64 stays fp64).
        weight: (V, D).
        labels: (...) int64 in 0..V-1 or `ignore_index`.
        ignore_index: label of tokens that are left out.
        reduction: "sum" for the scalar sum over the labels that count (0 if there are none), "mean" for that sum over
            their number (0 if there are none), "none" for `TokenLosses`.
        z_loss: adds z_loss · logsumexp(logits)² for each label that counts (Chowdhery et al., arXiv:2204.02311,
            section 5), with "sum" and "mean" only: `TokenLosses` are nats and nothing else.
        softcap: logits become softcap · tanh(logits / softcap) (Gemma 2, arXiv:2408.00118); None: they stay.
    """
    check_linear_cross_entropy(hidden, weight, labels, reduction, z_loss, softcap)
    logits = functional.linear(hidden, weight).flatten(0, -2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    flat = labels.flatten()
    nats = functional.cross_entropy(logits, flat, ignore_index=ignore_index, reduction="none")
    if reduction == "none":
        # a label that is ignored is no token id, so it can never be the likeliest one
        correct = (logits.argmax(dim=-1) == flat) & (flat != ignore_index)
        return TokenLosses(nats.view(labels.shape), correct.view(labels.shape))
    if z_loss:
        nats = nats + torch.where(flat != ignore_index, z_loss * logits.logsumexp(dim=-1).square(), 0.0)
    total = nats.sum()
    return total if reduction == "sum" else total / (flat != ignore_index).sum().clamp(min=1)


def check_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, reduction: Reduction, z_loss: float, softcap: float | None
) -> None:
    """ValueError for what no backend can compute."""
    if reduction not in ("sum", "mean", "none"):
        raise ValueError(f"linear_cross_entropy: reduction is {reduction!r}; expected 'sum', 'mean' or 'none'")
    fits = weight.ndim == 2 and weight.shape[0] > 0 and weight.shape[1] == hidden.shape[-1]
    if not fits or labels.shape != hidden.shape[:-1]:
        raise ValueError(
            f"linear_cross_entropy: hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)}, labels "
            f"{tuple(labels.shape)}; expected (..., D), (V, D) and (...)"
        )
    if labels.dtype != torch.int64:
        raise ValueError(f"linear_cross_entropy: labels are {labels.dtype}; expected int64")
    if not z_loss >= 0 or (z_loss and reduction == "none"):
        raise ValueError(
            f"linear_cross_entropy: z_loss is {z_loss} with reduction {reduction!r}; expected 0 or more, and 0 with "
            "'none', whose losses are nats"
        )
    if softcap is not None and not softcap > 0:
        raise ValueError(f"linear_cross_entropy: softcap is {softcap}; expected a positive cap, or None")
