"""Reward models: one number for a prompt and its completion, learnt from pairs."""

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torchmetrics import Metric

from litespark.config.settings import settings
from litespark.data.batch import TokenBatch
from litespark.data.examples.batch import ExampleBatch
from litespark.data.manifest import Manifest
from litespark.metrics.validation import Means
from litespark.ranges import NotNegative
from litespark.tasks.observed import observed
from litespark.tasks.sequences import examples_in, layout


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
class Reward:
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
    measures_text = False
    num_labels = 1
    observed = ("accuracy", "margin", "chosen_reward", "rejected_reward")

    def loss(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """The sum over the pairs of a micro-batch, () fp32."""
        return self.observe(model, batch)[0]

    def divisor(self, batch: TokenBatch) -> int:
        return examples_in(batch, self.name).example_count

    def observe(self, model: nn.Module, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """See `Observes`: the share of pairs whose chosen sequence has the larger reward, and the rewards."""
        batch = examples_in(batch, self.name)
        if batch.sequence_count != 2 * batch.example_count:
            raise ValueError(
                f"task={self.name}: got {batch.sequence_count} sequences of {batch.example_count} examples, expected "
                "two of each, chosen and rejected; choose data of pairs, such as data=pairs"
            )
        of_all = rewards(model, batch)
        chosen, rejected = of_all[0::2], of_all[1::2]
        losses = -logsigmoid(chosen - rejected - batch.about.get("margin", 0.0))
        losses = losses + self.center_rewards_coefficient * (chosen + rejected).square()
        return losses.sum(), observed((chosen > rejected).float(), chosen - rejected, chosen, rejected)

    def metrics(self, manifest: Manifest) -> Means:
        return Means("loss", *self.observed)

    def evaluate(self, model: nn.Module, batch: TokenBatch, metrics: Metric) -> None:
        loss, seen = self.observe(model, batch)
        metrics.update(torch.cat([torch.stack([loss, loss.new_tensor(self.divisor(batch))])[None], seen]))
