"""Validation quality over any number of batches and ranks: sums are kept, ratios are taken once at the end.

A mean of batch means is wrong as soon as batches differ in supervised tokens, and a last uneven batch always does.

Shapes: B batch, S sequence length, V vocabulary.
"""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

# what the data room writes where nothing is predicted; the value that torch's own losses ignore by default
IGNORE_INDEX = -100


class TokenMetrics(Metric):
    """Loss, perplexity, bits-per-byte and token accuracy over supervised tokens.

    - loss = Σ nats ÷ supervised tokens
    - perplexity = exp(loss)
    - bits_per_byte = Σ nats ÷ (ln 2 · Σ bytes of the predicted tokens)
    - token_accuracy = correct ÷ supervised tokens

    Each is NaN where its divisor is 0. Sums are float64 and int64 and are added over ranks.
    """

    is_differentiable = False
    full_state_update = False

    nats: Tensor
    tokens: Tensor
    byte_count: Tensor
    correct: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("byte_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nats: Tensor, correct: Tensor, labels: Tensor, token_bytes: Tensor) -> None:
        """Add a batch; nothing is synchronised.

        Args:
            nats: (B, S) fp32, negative log-likelihood of each label; what stands at ignored places does not matter.
            correct: (B, S) bool, whether the argmax is the label.
            labels: (B, S) int64, ``IGNORE_INDEX`` where nothing is predicted.
            token_bytes: (V,) int64, bytes of text that each token id stands for, 0 for special tokens.

        Raises:
            ValueError: the shapes of the first three differ.
        """
        if not nats.shape == correct.shape == labels.shape:
            raise ValueError(
                f"got nats {tuple(nats.shape)}, correct {tuple(correct.shape)} and labels {tuple(labels.shape)}, "
                "expected one shape (B, S); take all three from the same batch"
            )
        supervised = labels != IGNORE_INDEX
        # selected, not multiplied: NaN at an ignored place stays out
        self.nats += torch.where(supervised, nats, 0).sum(dtype=torch.float64)
        self.tokens += supervised.sum()
        self.byte_count += torch.where(supervised, token_bytes[labels.clamp(min=0)], 0).sum()
        self.correct += (correct & supervised).sum()

    def compute(self) -> dict[str, Tensor]:
        """The four values as float64 scalars, over everything added on all ranks."""
        loss = self.nats / self.tokens  # 0 ÷ 0 is NaN: not measured
        # a Python float times an integer tensor would be float32
        bits_per_byte = self.nats / (math.log(2) * self.byte_count.double())
        return {
            "loss": loss,
            "perplexity": loss.exp(),
            "bits_per_byte": bits_per_byte.where(self.byte_count > 0, math.nan),
            "token_accuracy": self.correct.double() / self.tokens,
        }
