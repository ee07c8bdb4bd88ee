"""Reward models: one number for a prompt and its completion, learnt from pairs."""

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from litespark.config.settings import settings
from litespark.data.batch import TokenBatch
from litespark.data.examples.batch import ExampleBatch
from litespark.ranges import NotNegative
from litespark.tasks.observed import ObservedTask, observed
from litespark.tasks.sequences import layout, pairs_in


def rewards(model: nn.Module, batch: ExampleBatch) -> Tensor:
    """(N,) fp32: what a model with one label makes of each sequence, read at its last id."""
    if not batch.last_ids:
        raise ValueError(
            "got sequences without their last ids among the inputs, expected them: a reward is read there; pack the "
            "examples with last_ids=True, as a run with task=reward does"
        )
    scores: Tensor = model(batch.tokens, **layout(batch))
    if scores.shape[-1] != 1:
        raise ValueError(f"got a model of {scores.shape[-1]} labels, expected one; build it with num_labels=1")
    return scores.flatten()[batch.last_places]


@settings("task")
class Reward(ObservedTask):
    """-log σ(r_w - r_l - margin) + c·(r_w + r_l)², a mean over pairs: Bradley and Terry 1952, as in arXiv:2203.02155,
    eq. 1; margins as in Llama 2, arXiv:2307.09288, eq. 2; centring as in arXiv:2312.09244.

    The head of the model is one row in place of the vocabulary, drawn anew where the weights are those of a language
    model. A pair's `margin` counts where the data has that column. TRL 1.16's RewardTrainer is the same.
    """

    center_rewards_coefficient: NotNegative = 0.0
    """c, how strongly the rewards of a pair are drawn to a sum of 0; TRL's authors recommend 0.01."""

    name = "reward"
    loss_unit = "nats/pair"
    data_formats = ("pairs",)
    num_labels = 1
    observed = ("accuracy", "margin", "chosen_reward", "rejected_reward")

    def observe(self, model: nn.Module, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """See `Observes`: the share of pairs whose chosen sequence has the larger reward, and the rewards."""
        batch = pairs_in(batch, self.name)
        of_all = rewards(model, batch)
        chosen, rejected = of_all[0::2], of_all[1::2]
        losses = -logsigmoid(chosen - rejected - batch.about.get("margin", 0.0))
        losses = losses + self.center_rewards_coefficient * (chosen + rejected).square()
        return losses.sum(), observed((chosen > rejected).float(), chosen - rejected, chosen, rejected)
