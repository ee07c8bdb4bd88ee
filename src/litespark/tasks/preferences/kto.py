"""Learning from completions that were rated one by one: KTO."""

from typing import Literal

import torch
from torch import Tensor, nn

from litespark.config.settings import settings
from litespark.data.batch import TokenBatch
from litespark.ranges import NotNegative, Positive
from litespark.tasks.observed import ObservedTask, means_of, observed
from litespark.tasks.sequences import log_probabilities, pairs_in, reference_of


def kto(ratio: Tensor, desirable: Tensor, kl: Tensor, beta: float) -> Tensor:
    """1 - σ(β(u - z)) where a completion is desirable, else 1 - σ(β(z - u)), (E,): Ethayarajh et al., arXiv:2402.01306,
    eq. 7.

    `ratio` (E,) is u = log π(y|x) - log π_ref(y|x), `desirable` (E,) bool, `kl` () the estimate z of KL(π ‖ π_ref).
    """
    return 1 - torch.sigmoid(beta * torch.where(desirable, ratio - kl, kl - ratio))


def apo_zero_unpaired(ratio: Tensor, desirable: Tensor, kl: Tensor, beta: float) -> Tensor:
    """1 - σ(βu) where a completion is desirable, else σ(βu): arXiv:2408.06266, eq. 7 for single completions."""
    return 1 - torch.sigmoid(beta * torch.where(desirable, ratio, -ratio))


@settings("task")
class KTO(ObservedTask):
    """Prefers desirable completions to undesirable ones, which need not answer the same prompts; a mean over examples.

    An example has two sequences: the prompt with the completion that was rated, and with the completion of another
    example, from which z is estimated: max(0, mean of log π - log π_ref), without gradient, over a micro-batch. TRL
    1.16 has the same, and averages z over ranks as well, which here each takes of its own examples.
    """

    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """The loss, by TRL's names; `apo_zero_unpaired` has no z."""
    beta: Positive = 0.1
    """How strongly an example is weighed against staying near the reference model."""
    desirable_weight: NotNegative = 1.0
    """Of a desirable completion; where one kind is rare, its weight makes up for it."""
    undesirable_weight: NotNegative = 1.0
    """Of an undesirable completion."""

    name = "kto"
    loss_unit = "nats/example"
    data_formats = ("rated",)
    needs_reference = True
    observed = (
        *("accuracy", "chosen_reward", "rejected_reward"),
        *("chosen_log_probability", "rejected_log_probability", "kl"),
    )

    def __post_init__(self) -> None:
        if not self.desirable_weight + self.undesirable_weight:
            raise ValueError(
                "task.desirable_weight and task.undesirable_weight: got 0 for both, expected one above 0, or nothing "
                "is learnt"
            )

    def observe(self, model: nn.Module, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """See `Observes`. A reward is β(log π - log π_ref), chosen are the desirable ones, and accuracy is the share of
        examples whose reward has the sign of its rating; `kl` is z before it is taken for 0 below 0."""
        batch = pairs_in(batch, self.name, "rated")
        if "desirable" not in batch.about:
            got = ", ".join(batch.about) or "no columns"
            raise ValueError(f"task={self.name}: got examples with {got}, expected `desirable`; choose data=rated")
        log_p = log_probabilities(model, batch)
        ratios = log_p - reference_of(batch, self.name)
        ratio, mismatched, desirable = ratios[0::2], ratios[1::2].detach(), batch.about["desirable"] > 0
        kl = mismatched.sum() / max(1, batch.example_count)
        compute = kto if self.loss_type == "kto" else apo_zero_unpaired
        losses = compute(ratio, desirable, kl.clamp(min=0), self.beta)
        losses = torch.where(desirable, self.desirable_weight, self.undesirable_weight) * losses
        with torch.no_grad():
            rewards, log_p = self.beta * ratio, log_p[0::2]
            seen = [means_of(values, of) for values in (rewards, log_p) for of in (desirable, ~desirable)]
            right = observed(((rewards > 0) == desirable).float())
        return losses.sum(), torch.cat([right, *seen, observed(mismatched)])
