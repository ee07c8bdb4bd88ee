"""Pre-training: predict the next token everywhere."""

import logging

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from litespark.config.settings import settings
from litespark.data.batch import TokenBatch
from litespark.data.manifest import Manifest
from litespark.metrics.validation import TokenMetrics
from litespark.ops.linear_cross_entropy.reference import TokenLosses
from litespark.tasks.sequences import layout, token_losses

log = logging.getLogger(__name__)


@settings("task")
class Pretrain:
    """Next-token cross-entropy over the labels that a batch carries."""

    name = "pretrain"
    data_formats = ("text",)
    loss_unit = "nats/token"
    measures_text = True

    def loss(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """The sum of nats over the supervised tokens of a micro-batch, () fp32."""
        loss = model(batch.tokens, batch.labels, **layout(batch))
        assert isinstance(loss, Tensor)
        return loss

    def divisor(self, batch: TokenBatch) -> int:
        return batch.supervised_count

    def metrics(self, manifest: Manifest) -> TokenMetrics:
        """Loss, perplexity, bits-per-byte and token accuracy, of all domains and of each."""
        return TokenMetrics(torch.tensor(manifest.token_bytes, dtype=torch.long), text_bytes_per_byte(manifest))

    def evaluate(self, model: nn.Module, batch: TokenBatch, metrics: Metric) -> None:
        losses = self.token_losses(model, batch)
        metrics.update(losses.nats, losses.correct, batch.labels, batch.domain)

    def token_losses(self, model: nn.Module, batch: TokenBatch) -> TokenLosses:
        """Nats (B, S) fp32 and hits (B, S) bool of each token."""
        return token_losses(model, batch)


def text_bytes_per_byte(manifest: Manifest) -> dict[str, float]:
    """Of each domain of the validation text: its bytes ÷ those that its tokens decode to; see `TokenMetrics`."""
    domains = manifest.splits["validation"].domains
    ratios = {name: domain.text_bytes / domain.bytes if domain.bytes else 1.0 for name, domain in domains.items()}
    if changed := {name: round(ratio, 6) for name, ratio in ratios.items() if ratio != 1}:
        log.warning(
            "the tokenizer changes text: its tokens decode to more or fewer bytes than the text has (text ÷ tokens: "
            "%s); bits per byte is corrected by these ratios, so that it is per byte of text",
            changed,
        )
    return ratios
