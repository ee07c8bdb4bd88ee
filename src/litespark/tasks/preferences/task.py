"""Learning from pairs: `task=dpo` with one of the losses of `litespark.tasks.preferences.losses`."""

from typing import Literal

import torch
from torch import Tensor, nn

from litespark.config.settings import settings
from litespark.data.batch import TokenBatch
from litespark.data.examples.batch import ExampleBatch
from litespark.ranges import Decay, NotNegative, Positive
from litespark.tasks.observed import ObservedTask, observed
from litespark.tasks.preferences.losses import LOSSES, WITHOUT_REFERENCE, Pairs, Strength
from litespark.tasks.sequences import log_probabilities, pairs_in, reference_of

Loss = Literal[
    "sigmoid", "sigmoid_norm", "robust", "hinge", "ipo", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero",
    "apo_down", "simpo", "orpo",
]  # fmt: skip


@settings("task")
class Preference(ObservedTask):
    """Prefers the chosen sequence of each pair to the rejected one; the loss is the mean over pairs."""

    loss_type: Loss = "sigmoid"
    """The loss, by TRL's names: `sigmoid` (DPO), `sigmoid_norm`, `robust`, `hinge`, `ipo`, `exo_pair`, `nca_pair`,
    `bco_pair`, `sppo_hard`, `apo_zero`, `apo_down`; without a reference model `simpo` and `orpo`."""
    beta: Positive = 0.1
    """How strongly a pair is weighed against staying near the reference model; `ipo`: τ, `orpo`: λ."""
    label_smoothing: Decay = 0.0
    """Share of pairs that are thought to be the wrong way round; `sigmoid`, `sigmoid_norm`, `robust`, `exo_pair`,
    `simpo`."""
    gamma: NotNegative = 0.5
    """By how much a chosen sequence should be ahead, times beta; `simpo` alone."""

    name = "dpo"
    data_formats = ("pairs",)
    loss_unit = "nats/pair"
    observed = (
        *("accuracy", "margin", "chosen_reward", "rejected_reward"),
        *("chosen_log_probability", "rejected_log_probability", "log_ratio"),
    )

    def __post_init__(self) -> None:
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise ValueError(
                "task.label_smoothing: got 0 with task.loss_type=exo_pair, expected above 0, since its logarithm is "
                "taken; set task.label_smoothing=0.001"
            )
        if self.loss_type == "robust" and self.label_smoothing >= 0.5:
            raise ValueError(
                f"task.label_smoothing: got {self.label_smoothing:g} with task.loss_type=robust, expected below 0.5: "
                "of pairs of which half are flipped nothing can be learnt"
            )

    @property
    def needs_reference(self) -> bool:
        return self.loss_type not in WITHOUT_REFERENCE

    def observe(self, model: nn.Module, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """See `Observes`. A reward is β(log π - log π_ref); without a reference β log π a token. `log_ratio` is the
        mean of log π - log π_ref over chosen and rejected sequences; a KL only of sequences that π samples."""
        pairs = self._pairs(model, pairs_in(batch, self.name))
        losses = LOSSES[self.loss_type](pairs, Strength(self.beta, self.label_smoothing, self.gamma))
        with torch.no_grad():
            of = pairs if self.needs_reference else pairs.per_token()
            chosen, rejected = self.beta * of.chosen_ratio, self.beta * of.rejected_ratio
            log_ratio = (pairs.chosen_ratio + pairs.rejected_ratio) / 2
            right = (chosen > rejected).float()
            values = [right, chosen - rejected, chosen, rejected, pairs.chosen, pairs.rejected]
            seen = observed(*values, log_ratio if self.needs_reference else log_ratio[:0])
        return losses.sum(), seen

    def _pairs(self, model: nn.Module, batch: ExampleBatch) -> Pairs:
        sums, lengths = log_probabilities(model, batch), batch.sums(batch.weights)
        reference = reference_of(batch, self.name) if self.needs_reference else None
        return Pairs(
            sums[0::2],
            sums[1::2],
            lengths[0::2],
            lengths[1::2],
            None if reference is None else reference[0::2],
            None if reference is None else reference[1::2],
        )
