"""Tasks that log more than their loss, as sums and what divides them, on the device."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from litespark.data.batch import TokenBatch
from litespark.data.manifest import Manifest
from litespark.metrics.validation import Means
from litespark.tasks.sequences import examples_in


class ObservedTask(ABC):
    """A `Task` that `Observes`, whose loss is a mean over examples; a validation measures what a step logs."""

    name: ClassVar[str]
    observed: ClassVar[tuple[str, ...]]
    measures_text = False

    @abstractmethod
    def observe(self, model: nn.Module, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """See `Observes`."""

    def loss(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """The sum over the examples of a micro-batch, () fp32."""
        return self.observe(model, batch)[0]

    def divisor(self, batch: TokenBatch) -> int:
        return examples_in(batch, self.name).example_count

    def metrics(self, manifest: Manifest) -> Means:
        return Means("loss", *self.observed)

    def evaluate(self, model: nn.Module, batch: TokenBatch, metrics: Metric) -> None:
        loss, seen = self.observe(model, batch)
        metrics.update(torch.cat([torch.stack([loss, loss.new_tensor(self.divisor(batch))])[None], seen]))


def observed(*values: Tensor) -> Tensor:
    """Values, (n,) each with an n of its own -> (K, 2) fp32: the sum of each and its n; NaN and infinity count."""
    sums = torch.stack([value.detach().sum(dtype=torch.float32) for value in values])
    counts = torch.tensor([value.numel() for value in values], dtype=torch.float32)
    return torch.stack([sums, counts.to(sums.device, non_blocking=True)], dim=1)


def means_of(values: Tensor, chosen: Tensor) -> Tensor:
    """(1, 2) fp32: the sum of those of `values` (n,) that are `chosen` (n,) bool, and their number."""
    return torch.stack([torch.where(chosen, values, 0).sum(), chosen.sum()]).float()[None]
