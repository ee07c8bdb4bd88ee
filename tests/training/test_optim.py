"""Parameter groups, and the end of a step against a plain PyTorch loop."""

import copy
import math

import pytest
import torch
from torch import nn

from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.training.optim import AdamWConfig, MuonConfig, build_optimizer, parameter_groups
from litespark.training.step import finish_gradients
from tests.training.small_runs import small_llama

BOTH = pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])


def llama(**changes):
    return Llama(small_llama(**changes), resolve(OpsConfig()))


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


def regression(seed: int = 0):
    """A small network, rows and, for each row, how many of its outputs are supervised: 1 to 16."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 16))
    inputs = torch.randn(8, 6, generator=generator)
    targets = torch.randn(8, 16, generator=generator)
    counts = torch.tensor([16, 16, 1, 1, 2, 9, 3, 1])
    mask = torch.arange(16) < counts[:, None]
    return model, inputs, targets, mask


def summed_loss(model, inputs, targets, mask):
    return ((model(inputs) - targets) ** 2).masked_fill(~mask, 0).sum()


def our_steps(model, data, config, *, micro_batch, steps=3):
    inputs, targets, mask = data
    optimizer = build_optimizer(model, config)
    norms = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss, tokens = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for begin in range(0, len(inputs), micro_batch):
            rows = slice(begin, begin + micro_batch)
            part = summed_loss(model, inputs[rows], targets[rows], mask[rows])
            part.backward()
            loss += part.detach()
            tokens += mask[rows].sum()
        result = finish_gradients(optimizer, loss, tokens, world_size=1, grad_clip=config.grad_clip)
        assert result.skipped == 0
        norms.append(float(result.norm))
        optimizer.step()
    return norms


def plain_steps(model, data, config, *, steps=3):
    """What a textbook does: the mean over all supervised outputs at once, clip_grad_norm_, AdamW."""
    inputs, targets, mask = data
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.lr, betas=config.betas, eps=config.eps, foreach=False,
    )  # fmt: skip
    norms = []
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(inputs) - targets) ** 2)[mask].mean().backward()
        limit = math.inf if config.grad_clip is None else config.grad_clip
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), limit)))
        optimizer.step()
    return norms


def assert_same_weights(left, right, tolerance=2e-6):
    for (name, a), b in zip(left.named_parameters(), right.parameters(), strict=True):
        assert (a - b).norm() / b.norm() < tolerance, name


@BOTH
@pytest.mark.parametrize("micro_batch", [8, 1, 3])
@pytest.mark.parametrize("grad_clip", [None, 0.05])
def test_however_the_batch_is_cut_the_step_is_that_of_the_mean_over_its_tokens(fused, micro_batch, grad_clip):
    ours, *data = regression()
    plain = copy.deepcopy(ours)
    # an epsilon of the size of the gradients makes AdamW feel their scale; else it cancels
    config = AdamWConfig(lr=0.05, eps=1e-2, grad_clip=grad_clip, fused=fused)
    norms = our_steps(ours, data, config, micro_batch=micro_batch)
    assert norms == pytest.approx(plain_steps(plain, data, config), rel=1e-5)
    assert_same_weights(ours, plain)


def test_a_mean_of_micro_batch_means_is_another_step():
    # the counts of the rows above differ enough for the wrong normalisation to be seen
    model, inputs, targets, mask = regression()
    parts = [((model(inputs[i : i + 2]) - targets[i : i + 2]) ** 2)[mask[i : i + 2]].mean() for i in range(0, 8, 2)]
    wrong = torch.autograd.grad(sum(parts) / 4, model[0].weight)[0]
    right = torch.autograd.grad(((model(inputs) - targets) ** 2)[mask].mean(), model[0].weight)[0]
    assert (wrong - right).norm() / right.norm() > 0.1


@BOTH
def test_gradients_averaged_over_ranks_come_to_the_same_step(fused):
    ours, *data = regression()
    plain = copy.deepcopy(ours)
    config = AdamWConfig(lr=0.05, eps=1e-2, grad_clip=0.05, fused=fused)
    optimizer = build_optimizer(ours, config)
    (summed_loss(ours, *data) / 4).backward()  # the average over four ranks of their sums
    loss = summed_loss(ours, *data).detach()
    finish_gradients(optimizer, loss, data[2].sum(), world_size=4, grad_clip=config.grad_clip)
    optimizer.step()
    plain_steps(plain, data, config, steps=1)
    assert_same_weights(ours, plain)


@BOTH
def test_a_step_without_supervised_tokens_stays_finite(fused):
    model, inputs, targets, mask = regression()
    before = copy.deepcopy(model)
    optimizer = build_optimizer(model, AdamWConfig(fused=fused, weight_decay=0.0))
    summed_loss(model, inputs, targets, torch.zeros_like(mask)).backward()
    result = finish_gradients(optimizer, torch.zeros(()), torch.zeros(()), world_size=1, grad_clip=1.0)
    optimizer.step()
    assert (float(result.norm), float(result.skipped)) == (0.0, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
