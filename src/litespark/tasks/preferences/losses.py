"""Losses of preference pairs, as functions of log-probabilities. P pairs.

Each takes `Pairs` and gives the loss of each pair, (P,). With u = log π(y|x) - log π_ref(y|x) of a sequence, |y| its
length and w, l for chosen and rejected: Δ = u_w - u_l, and Δ̄ = u_w ÷ |y_w| - u_l ÷ |y_l|.

Those of TRL 1.16 are equal to its DPOTrainer's (simpo: CPOTrainer's; orpo: ORPOTrainer's) but for this:
- `sigmoid` takes `label_smoothing`, as conservative DPO has it; TRL has it no more.
- `orpo` takes nats of the chosen completion, averaged over its own tokens, as in the paper; TRL's are of the prompt as
  well, averaged over all tokens of a micro-batch, which makes a pair's loss depend on its neighbours.
TRL's `aot`, which sorts a micro-batch, is left out for the same reason.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Pairs:
    """Log-probabilities of the sequences of pairs, and their lengths in tokens, (P,) fp32 each."""

    chosen: Tensor
    rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None

    @property
    def chosen_ratio(self) -> Tensor:
        """log π(y|x) - log π_ref(y|x); without a reference log π(y|x)."""
        return self.chosen if self.reference_chosen is None else self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        return self.rejected if self.reference_rejected is None else self.rejected - self.reference_rejected

    @property
    def delta(self) -> Tensor:
        return self.chosen_ratio - self.rejected_ratio

    def per_token(self) -> "Pairs":
        """The same as means over the tokens of each sequence."""

        def over(values: Tensor | None, lengths: Tensor) -> Tensor | None:
            return None if values is None else values / lengths.clamp(min=1)

        return Pairs(
            self.chosen / self.chosen_length.clamp(min=1),
            self.rejected / self.rejected_length.clamp(min=1),
            self.chosen_length,
            self.rejected_length,
            over(self.reference_chosen, self.chosen_length),
            over(self.reference_rejected, self.rejected_length),
        )


@dataclass(frozen=True)
class Strength:
    """The numbers of a loss: see `Preference`, whose settings they are."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    gamma: float = 0.5


def sigmoid(pairs: Pairs, by: Strength) -> Tensor:
    """-(1-ε) log σ(βΔ) - ε log σ(-βΔ): DPO (Rafailov et al., arXiv:2305.18290, eq. 7), conservative with ε > 0."""
    return _smoothed(by.beta * pairs.delta, by.label_smoothing)


def sigmoid_norm(pairs: Pairs, by: Strength) -> Tensor:
    """-log σ(βΔ̄): length-normalised DPO (Tülu 3, arXiv:2411.15124, eq. 6)."""
    return _smoothed(by.beta * pairs.per_token().delta, by.label_smoothing)


def robust(pairs: Pairs, by: Strength) -> Tensor:
    """(-(1-ε) log σ(βΔ) + ε log σ(-βΔ)) ÷ (1-2ε), where a share ε of labels is flipped (arXiv:2403.00409)."""
    logits, flipped = by.beta * pairs.delta, by.label_smoothing
    return (flipped * logsigmoid(-logits) - (1 - flipped) * logsigmoid(logits)) / (1 - 2 * flipped)


def hinge(pairs: Pairs, by: Strength) -> Tensor:
    """max(0, 1 - βΔ) (SLiC, arXiv:2305.10425; RSO, arXiv:2309.06657)."""
    return torch.relu(1 - by.beta * pairs.delta)


def ipo(pairs: Pairs, by: Strength) -> Tensor:
    """(Δ̄ - 1/(2β))², β for the paper's τ (arXiv:2310.12036, eq. 17); its authors average over tokens too."""
    return (pairs.per_token().delta - 1 / (2 * by.beta)).square()


def exo_pair(pairs: Pairs, by: Strength) -> Tensor:
    """KL(p_θ ‖ p) of two outcomes, p = (1-ε, ε), p_θ = softmax of βu (arXiv:2402.00856, eq. 16); needs ε > 0."""
    logits, flipped = by.beta * pairs.delta, by.label_smoothing
    right = torch.sigmoid(logits) * (logsigmoid(logits) - math.log1p(-flipped))
    return right + torch.sigmoid(-logits) * (logsigmoid(-logits) - math.log(flipped))


def nca_pair(pairs: Pairs, by: Strength) -> Tensor:
    """-log σ(βu_w) - ½ log σ(-βu_w) - ½ log σ(-βu_l) (arXiv:2402.05369)."""
    chosen, rejected = by.beta * pairs.chosen_ratio, by.beta * pairs.rejected_ratio
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def bco_pair(pairs: Pairs, by: Strength) -> Tensor:
    """-log σ(βu_w) - log σ(-βu_l), BCO (arXiv:2404.04656) without the shift of rewards, as TRL has it for pairs."""
    return -logsigmoid(by.beta * pairs.chosen_ratio) - logsigmoid(-by.beta * pairs.rejected_ratio)


def sppo_hard(pairs: Pairs, by: Strength) -> Tensor:
    """(u_w - 1/(2β))² + (u_l + 1/(2β))² (arXiv:2405.00675, eq. 4.7 with P = 1 and 0)."""
    return (pairs.chosen_ratio - 0.5 / by.beta).square() + (pairs.rejected_ratio + 0.5 / by.beta).square()


def apo_zero(pairs: Pairs, by: Strength) -> Tensor:
    """1 - σ(βu_w) + σ(βu_l) (arXiv:2408.06266, eq. 7), for chosen ones that are better than the model's own."""
    return 1 - torch.sigmoid(by.beta * pairs.chosen_ratio) + torch.sigmoid(by.beta * pairs.rejected_ratio)


def apo_down(pairs: Pairs, by: Strength) -> Tensor:
    """σ(βu_w) + 1 - σ(βΔ) (arXiv:2408.06266, eq. 8), for chosen ones that are worse than the model's own."""
    return torch.sigmoid(by.beta * pairs.chosen_ratio) + 1 - torch.sigmoid(by.beta * pairs.delta)


def simpo(pairs: Pairs, by: Strength) -> Tensor:
    """-log σ(β(log π(y_w|x) ÷ |y_w| - log π(y_l|x) ÷ |y_l|) - γ) (arXiv:2405.14734, eq. 6); no reference."""
    return _smoothed(by.beta * pairs.per_token().delta - by.gamma, by.label_smoothing)


def orpo(pairs: Pairs, by: Strength) -> Tensor:
    """-p_w - β log σ(log odds(p_w) - log odds(p_l)), p = log π(y|x) ÷ |y|, β for the paper's λ (arXiv:2403.07691,
    eq. 6 and 7); no reference."""
    means = pairs.per_token()
    odds = means.delta - (_log_of_rest(means.chosen) - _log_of_rest(means.rejected))
    return -means.chosen - by.beta * logsigmoid(odds)


LOSSES: dict[str, Callable[[Pairs, Strength], Tensor]] = {
    loss.__name__: loss
    for loss in (sigmoid, sigmoid_norm, robust, hinge, ipo, exo_pair, nca_pair, bco_pair, sppo_hard, apo_zero, apo_down,
                 simpo, orpo)
}  # fmt: skip
WITHOUT_REFERENCE = ("simpo", "orpo")


def _smoothed(logits: Tensor, flipped: float) -> Tensor:
    if not flipped:
        return -logsigmoid(logits)
    return -(1 - flipped) * logsigmoid(logits) - flipped * logsigmoid(-logits)


def _log_of_rest(log_p: Tensor) -> Tensor:
    """log(1 - p) of log p, by whichever of two forms keeps its digits (Mächler 2012, "log1mexp")."""
    log_p = log_p.clamp(max=-(2.0**-23))  # at p = 1 gradients would be NaN
    return torch.where(log_p > -math.log(2), torch.log(-torch.expm1(log_p)), torch.log1p(-torch.exp(log_p)))
