"""The optimizer step that `litespark bench ops` measures is that of the chosen optimizer."""

import pytest
import torch

from litespark.benchmarks.ops.optimizer import FUSED, MUON, measure_optimizer
from litespark.training.optim import AdamWConfig, MuonConfig
from tests.training.small_runs import small_llama


@pytest.mark.parametrize("settings, kinds", [(AdamWConfig(), [FUSED, "foreach"]), (MuonConfig(), [MUON])])
def test_the_chosen_optimizer_is_measured(settings, kinds):
    model = small_llama(num_layers=3)
    found, count = measure_optimizer(model, settings, torch.device("cpu"), seconds=0.05, bandwidth=1e9)
    assert [each.name for each in found] == kinds
    assert count == small_llama(num_layers=1).parameter_count()
