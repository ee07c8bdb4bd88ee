"""The optimizer step that `litespark bench ops` measures is that of the chosen optimizer."""

import pytest
import torch

from litespark.benchmarks.ops.optimizer import FUSED, MUON, measure_optimizer
from litespark.metrics.records.ops import TimeRecord
from litespark.training.optim import AdamWConfig, MuonConfig
from tests.training.small_runs import small_llama


@pytest.mark.parametrize("settings, kinds", [(AdamWConfig(), [FUSED, "foreach"]), (MuonConfig(), [MUON])])
def test_the_chosen_optimizer_is_measured(settings, kinds):
    found, count = measure_optimizer(
        small_llama(num_layers=3), settings, torch.device("cpu"), seconds=0.05, bandwidth=1e9,
        summary=lambda times: TimeRecord(1.0, 2.0, 3.0, len(times)),
    )  # fmt: skip
    assert [each.name for each in found] == kinds
    assert count == small_llama(num_layers=1).parameter_count()
