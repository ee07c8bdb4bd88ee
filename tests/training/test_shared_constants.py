"""Rooms that may not import one another agree on what they share."""

import torch

from litespark.data import batch
from litespark.metrics import validation
from litespark.ops.backend import OpsConfig, resolve


def test_the_label_that_is_ignored_is_the_same_everywhere():
    assert validation.IGNORE_INDEX == batch.IGNORE_INDEX
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(6, 4, generator=generator), torch.randn(9, 4, generator=generator)
    labels = torch.tensor([1, 2, 3, 4, 5, 6])
    loss = resolve(OpsConfig()).linear_cross_entropy
    kept = loss(hidden[:3], weight, labels[:3])
    labels[3:] = batch.IGNORE_INDEX
    torch.testing.assert_close(loss(hidden, weight, labels), kept)
