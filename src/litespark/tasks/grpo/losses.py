"""The objectives of GRPO and RLOO, and their advantages, as functions of log-probabilities and rewards.

Shao et al., arXiv:2402.03300 (GRPO); Liu et al., arXiv:2503.20783 (Dr. GRPO); Yu et al., arXiv:2503.14476 (DAPO);
Ahmadian et al., arXiv:2402.14740 (RLOO); Schulman et al., arXiv:1707.06347 (clipping). They are those of TRL 1.16, but
for groups that are left out, which are in no mean here and have an advantage of 0 there.

P prompts, G completions of each, N = P·G; values of tokens are of any shape, which `sums` adds up to (N,).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Loss = Literal["grpo", "dr_grpo", "dapo", "rloo"]
Scale = Literal["group", "batch", "none"]
_EPS = 1e-4  # of TRL


@dataclass(frozen=True)
class Clipped:
    """What an objective is made of.

    Attributes:
        loss: summed, of the completions that count; its divisor is `divisor`.
        kl: (…) per token, the estimate k3 of the KL divergence from the reference; None without one.
        clipped: (…) bool per token (RLOO: (N,) per completion), where the bound of the ratio is what counts.
    """

    loss: Tensor
    kl: Tensor | None
    clipped: Tensor


def advantages(rewards: Tensor, loss: Loss, scale: Scale, among: Tensor | None = None) -> Tensor:
    """(P, G) rewards, NaN in a group that is left out -> (P, G), 0 there.

    GRPO: above the mean of the group, divided by the standard deviation of the group, of all rewards (`among`, where
    there are more of them than these), or by nothing.
    RLOO: above the mean of the other completions of the group, undivided.
    """
    size = rewards.shape[1]
    if loss == "rloo":
        others = (rewards.sum(1, keepdim=True) - rewards) / (size - 1)
        return (rewards - others).nan_to_num(0.0)
    found = rewards - rewards.mean(1, keepdim=True)
    if scale == "group":
        found = found / (rewards.std(1, keepdim=True) + _EPS)
    elif scale == "batch":
        known = rewards if among is None else among
        known = known[~known.isnan()]
        found = found / ((known.std() if known.numel() > 1 else torch.zeros_like(known.sum())) + _EPS)
    return found.nan_to_num(0.0)


def clipped_objective(
    logs: Tensor,
    old: Tensor,
    advantage: Tensor,
    counted: Tensor,
    lengths: Tensor,
    sums: Callable[[Tensor], Tensor],
    of_tokens: Callable[[Tensor], Tensor],
    *,
    loss: Loss,
    epsilon: float,
    epsilon_high: float,
    beta: float = 0.0,
    reference: Tensor | None = None,
    correction: Tensor | None = None,
) -> Clipped:
    """−min(ratio · A, clip(ratio, 1 − ε, 1 + ε_high) · A) + β · KL of each token, summed as `loss` weighs tokens.

    The ratio is exp(logs − old) of each token; of RLOO exp(Σ (logs − old)) of each completion, which has no KL here:
    there it belongs to the reward.

    Args:
        logs, old: log-probabilities of the tokens under the policy, and when they were sampled, without gradient.
        advantage: (N,). lengths: (N,) tokens of each completion.
        counted: 1 for a token of a completion that counts, else 0.
        of_tokens: (N,) -> the value of its completion for each token, 0 for what belongs to none.
        reference: log-probabilities under the reference model, where `beta` is not 0.
        correction: a factor of each token's term but the KL: how much likelier the trainer finds it than the sampler;
            not of RLOO, whose ratio is that of a completion.
    """
    if loss == "rloo":
        ratio = torch.exp(sums((logs - old) * counted))
        term, clipped = _bounded(ratio, advantage, epsilon, epsilon_high)
        kept = (sums(counted) > 0).to(term.dtype)
        return Clipped((term * kept).sum(), None, clipped & (kept > 0))
    term, clipped = _bounded(torch.exp(logs - old), of_tokens(advantage), epsilon, epsilon_high)
    if correction is not None:
        term = term * correction
    kl = None
    if beta != 0.0:
        assert reference is not None
        kl = torch.exp(reference - logs) - (reference - logs) - 1
        term = term + beta * kl
    by_completion = sums(term * counted)
    total = (by_completion / lengths).sum() if loss == "grpo" else by_completion.sum()
    return Clipped(total, kl, clipped & (counted > 0))


def divisor(loss: Loss, completions: int, tokens: int, max_new_tokens: int) -> int:
    """Of the summed loss, from counts of the completions that count: completions, tokens, or the room for tokens."""
    return {
        "grpo": completions,
        "rloo": completions,
        "dapo": tokens,
        "dr_grpo": completions * max_new_tokens,
    }[loss]


def _bounded(ratio: Tensor, advantage: Tensor, epsilon: float, epsilon_high: float) -> tuple[Tensor, Tensor]:
    low, high = 1 - epsilon, 1 + epsilon_high
    term = -torch.min(ratio * advantage, ratio.clamp(low, high) * advantage)
    clipped = ((ratio < low) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
    return term, clipped.detach()
