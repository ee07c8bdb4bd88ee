"""Pre-training: predict the next token everywhere."""

from __future__ import annotations

from torch import Tensor

from litespark.data.batch import TokenBatch
from litespark.models.llama import Llama, TokenLosses


class Pretrain:
    """Next-token cross-entropy over the labels that a batch carries."""

    name = "pretrain"

    def loss(self, model: Llama, batch: TokenBatch) -> Tensor:
        """The sum of nats over the supervised tokens of a micro-batch, () fp32."""
        loss = model(batch.tokens, batch.labels, **_layout(batch))
        assert isinstance(loss, Tensor)
        return loss

    def token_losses(self, model: Llama, batch: TokenBatch) -> TokenLosses:
        """Nats (B, S) fp32 and hits (B, S) bool of each token, for evaluation."""
        losses = model(batch.tokens, batch.labels, **_layout(batch), reduction="none")
        assert isinstance(losses, TokenLosses)
        return losses


def _layout(batch: TokenBatch) -> dict[str, Tensor | None]:
    return {"positions": batch.positions, "documents": batch.documents, "boundaries": batch.boundaries}
