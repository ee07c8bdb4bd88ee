"""Supervised fine-tuning: predict the tokens of examples, each by its weight."""

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from litespark.config.settings import settings
from litespark.data.batch import TokenBatch
from litespark.data.manifest import Manifest
from litespark.metrics.validation import WeightedTokenMetrics
from litespark.tasks.pretrain import text_bytes_per_byte
from litespark.tasks.sequences import examples_in, token_losses


@settings("task")
class SFT:
    """Next-token cross-entropy over the labels of conversations and completions, not over what they answer.

    The loss of a step is Σ weight · nats ÷ Σ weight over all its micro-batches and ranks, so a token counts alike
    wherever it lies. With weights of 1 that is TRL 1.16's SFTTrainer, which has no others.
    """

    name = "sft"
    data_formats = ("conversations",)
    loss_unit = "nats/token"
    measures_text = True

    def loss(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """Σ weight · nats over the labels of a micro-batch, () fp32."""
        batch = examples_in(batch, self.name)
        return (token_losses(model, batch).nats * batch.weights).sum()

    def divisor(self, batch: TokenBatch) -> float:
        return examples_in(batch, self.name).weight_sum

    def metrics(self, manifest: Manifest) -> WeightedTokenMetrics:
        """As those of pre-training; loss and perplexity are by weight."""
        bytes_of = torch.tensor(manifest.token_bytes, dtype=torch.long)
        return WeightedTokenMetrics(bytes_of, text_bytes_per_byte(manifest))

    def evaluate(self, model: nn.Module, batch: TokenBatch, metrics: Metric) -> None:
        batch = examples_in(batch, self.name)
        losses = token_losses(model, batch)
        metrics.update(losses.nats, losses.correct, batch.labels, batch.domain, batch.weights)
