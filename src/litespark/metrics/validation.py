"""Validation quality over any number of batches and ranks: sums are kept, ratios are taken once at the end.

A mean of batch means is wrong as soon as batches differ in supervised tokens, and a last uneven batch always does.

Shapes: B batch, S sequence length, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric

from litespark.metrics.names import of_domain

# what the data room writes where nothing is predicted; the value that torch's own losses ignore by default
IGNORE_INDEX = -100


class TokenMetrics(Metric):
    """Loss, perplexity, bits-per-byte and token accuracy over supervised tokens, of all domains and of each.

    - loss = Σ nats ÷ supervised tokens, perplexity = exp(loss), token_accuracy = correct ÷ supervised tokens
    - bits_per_byte = Σ nats ÷ (ln 2 · Σ bytes of the predicted tokens)

    Each is NaN where its divisor is 0. ``token_bytes`` (V,) are the bytes of text that each id stands for, 0 for
    special tokens. ``text_bytes_per_byte`` of each domain are bytes of its texts ÷ bytes that their tokens decode to:
    predicted bytes are multiplied by it, so that bits-per-byte is per byte of text. None: one domain, of any name, and
    1.
    """

    is_differentiable = False
    full_state_update = False

    token_bytes: Tensor
    nats: Tensor
    tokens: Tensor
    byte_count: Tensor
    correct: Tensor

    def __init__(self, token_bytes: Tensor, text_bytes_per_byte: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.register_buffer("token_bytes", token_bytes.long(), persistent=False)
        ratios = {"": 1.0} if text_bytes_per_byte is None else dict(text_bytes_per_byte)
        self.places = {domain: place for place, domain in enumerate(ratios)}
        self.ratios = tuple(ratios.values())
        self.add_state("nats", torch.zeros(len(ratios), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("tokens", "byte_count", "correct"):
            self.add_state(name, torch.zeros(len(ratios), dtype=torch.int64), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], *arguments: Any, **settings: Any) -> Module:
        return self if _lacks_doubles(fn) else super()._apply(fn, *arguments, **settings)

    def update(self, nats: Tensor, correct: Tensor, labels: Tensor, domain: str | None = None) -> None:
        """Add a batch; nothing is synchronised. A ValueError where several domains are kept and the batch is of none.

        ``nats`` (B, S) fp32 is the negative log-likelihood of each label, ``correct`` (B, S) whether the argmax is it,
        ``labels`` (B, S) int64 ``IGNORE_INDEX`` where nothing is predicted. All sequences are of ``domain``.
        """
        if len(self.places) > 1 and domain not in self.places:
            raise ValueError(
                f"got a batch of domain {domain!r}, expected one of {', '.join(self.places)}: a validation batch holds "
                "sequences of one domain and names it"
            )
        nats, correct, labels = (tensor.to(self.nats.device) for tensor in (nats, correct, labels))
        place = self.places[domain] if len(self.places) > 1 and domain is not None else 0
        supervised = labels != IGNORE_INDEX
        # selected, not multiplied: NaN at an ignored place stays out
        self.nats[place] += torch.where(supervised, nats, 0).sum(dtype=torch.float64)
        self.tokens[place] += supervised.sum()
        self.byte_count[place] += torch.where(supervised, self.token_bytes[labels.clamp(min=0)], 0).sum()
        self.correct[place] += (correct & supervised).sum()

    def compute(self) -> dict[str, Tensor]:
        """The four values as float64 scalars, over everything added on all ranks.

        With several domains `loss/DOMAIN` and `bits_per_byte/DOMAIN` come with them.
        """
        ratios = torch.tensor(self.ratios, dtype=torch.float64, device=self.byte_count.device)
        sizes = self.byte_count.double() * ratios
        tokens = self.tokens.sum()
        loss = self.nats.sum() / tokens  # 0 ÷ 0 is NaN: not measured
        values = {
            "loss": loss,
            "perplexity": loss.exp(),
            "bits_per_byte": _bits_per_byte(self.nats.sum(), sizes.sum()),
            "token_accuracy": self.correct.sum().double() / tokens,
        }
        if len(self.places) > 1:
            losses, bits = self.nats / self.tokens, _bits_per_byte(self.nats, sizes)
            for domain, place in self.places.items():
                values |= {of_domain("loss", domain): losses[place], of_domain("bits_per_byte", domain): bits[place]}
        return values


def _lacks_doubles(moved: Callable[[Tensor], Tensor]) -> bool:
    """Whether `moved` brings tensors to where there is no double precision (MPS): sums then stay on the host."""
    try:
        moved(torch.zeros((), dtype=torch.float64))
    except TypeError:
        return True
    return False


def _bits_per_byte(nats: Tensor, sizes: Tensor) -> Tensor:
    return (nats / (math.log(2) * sizes)).where(sizes > 0, math.nan)


class WeightedTokenMetrics(TokenMetrics):
    """`TokenMetrics` whose loss is Σ weight · nats ÷ Σ weight; bits-per-byte and accuracy are over tokens as there."""

    weighted: Tensor

    def __init__(self, token_bytes: Tensor, text_bytes_per_byte: Mapping[str, float] | None = None) -> None:
        super().__init__(token_bytes, text_bytes_per_byte)
        self.add_state("weighted", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(  # type: ignore[override]  # weights are asked for
        self, nats: Tensor, correct: Tensor, labels: Tensor, domain: str | None, weights: Tensor
    ) -> None:
        """As `TokenMetrics`; `weights` (B, S) fp32 are 0 where nothing is predicted."""
        super().update(nats, correct, labels, domain)
        nats, weights = nats.to(self.weighted.device).double(), weights.to(self.weighted.device).double()
        self.weighted += torch.stack([torch.where(weights > 0, nats * weights, 0).sum(), weights.sum()])

    def compute(self) -> dict[str, Tensor]:
        nats, weights = self.weighted
        return super().compute() | {"loss": nats / weights, "perplexity": (nats / weights).exp()}


class Means(Metric):
    """Means by name, of sums over batches and ranks and what divides each."""

    is_differentiable = False
    full_state_update = False

    sums: Tensor

    def __init__(self, *means: str) -> None:
        super().__init__()
        self.means = means
        self.add_state("sums", torch.zeros(len(means), 2, dtype=torch.float64), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], *arguments: Any, **settings: Any) -> Module:
        return self if _lacks_doubles(fn) else super()._apply(fn, *arguments, **settings)

    def update(self, sums: Tensor) -> None:
        """Add (K, 2): the sum of each and what divides it; nothing is synchronised."""
        self.sums += sums.to(self.sums.device, torch.float64)

    def compute(self) -> dict[str, Tensor]:
        """NaN where the divisor is 0."""
        return dict(zip(self.means, self.sums[:, 0] / self.sums[:, 1], strict=True))
