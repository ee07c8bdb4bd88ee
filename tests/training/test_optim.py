"""Parameter groups and settings of the optimizers."""

import math

import pytest
import torch
from torch import nn

from litespark.training.optim import AdamWConfig, MuonConfig, build_optimizer, parameter_groups
from litespark.training.step import finish_gradients
from tests.training.optimizer_steps import assert_same, llama, weights

BOTH = pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])


def test_matrices_are_decayed_and_vectors_are_not():
    model = llama(num_layers=2)
    matrices, vectors = parameter_groups(model, 0.3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert all("norm" in names[id(parameter)] for parameter in vectors["params"])
    assert not any("norm" in names[id(parameter)] for parameter in matrices["params"])
    together = [id(parameter) for parameter in matrices["params"] + vectors["params"]]
    assert sorted(together) == sorted(names)


def test_a_tied_embedding_is_optimised_once():
    model = llama(tie_embeddings=True)
    parameters = [p for group in parameter_groups(model, 0.1) for p in group["params"]]
    assert sum(p.numel() for p in parameters) == model.config.parameter_count()


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    (group,) = parameter_groups(model, 0.1)
    assert group["params"] == [model.weight]


@BOTH
def test_the_settings_reach_adamw(fused):
    config = AdamWConfig(lr=0.5, betas=[0.7, 0.8], eps=1e-6, weight_decay=0.2, fused=fused)
    optimizer = build_optimizer(llama(), config)
    for group, decay in zip(optimizer.param_groups, (0.2, 0.0), strict=True):
        assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.7, 0.8), 1e-6)
        assert (group["weight_decay"], bool(group["fused"])) == (decay, fused)


@pytest.mark.parametrize("kind", [AdamWConfig, MuonConfig])
@pytest.mark.parametrize(
    "name, value", [("lr", math.nan), ("betas", [0.9, 1.0]), ("weight_decay", 1e4), ("grad_clip", 0.0)]
)
def test_settings_out_of_range_are_refused_by_name(kind, name, value):
    with pytest.raises(ValueError, match=rf"optim\.{name}.*: got .*expected"):
        kind(**{name: value})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"matrix_lr": 0.0}, r"optim\.matrix_lr: got .*expected"),
        ({"newton_schulz_steps": 100}, r"optim\.newton_schulz_steps: got .*expected"),
        ({"adjust_lr": "original"}, r"got original and no optim.matrix_lr.*Set optim.matrix_lr=0.02, or"),
    ],
)
def test_settings_of_muon_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        MuonConfig(**settings)


@BOTH
def test_a_step_without_supervised_tokens_stays_finite(fused):
    model = llama()
    before = weights(model)
    optimizer = build_optimizer(model, AdamWConfig(fused=fused, weight_decay=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    result = finish_gradients(optimizer, torch.zeros(()), torch.zeros(()), world_size=1, grad_clip=1.0)
    optimizer.step()
    assert (float(result.norm), float(result.skipped)) == (0.0, 0.0)
    assert_same(before, weights(model))
