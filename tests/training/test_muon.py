"""Muon beside AdamW: which parameter has which, and PyTorch's own two as the reference of every step."""

import copy

import pytest
import torch
from torch import nn

from litespark.training.optim import MuonConfig, OptimizerConfig, build_optimizer
from litespark.training.optim.muon import block_matrices
from litespark.training.step import finish_gradients
from tests.training.optimizer_steps import assert_same, give_gradients, llama, weights

# H·Dh 8, K·Dh 4, F 16, D 8
PARTS = {"attention.qkv": (8, 4, 4), "attention.output": (8,), "mlp.gate_up": (16, 16), "mlp.down": (8,)}


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest(tie_embeddings):
    model = llama(num_layers=2, tie_embeddings=tie_embeddings)
    optimizer = build_optimizer(model, MuonConfig(weight_decay=0.3))
    called = {parameter: name.removesuffix(".weight") for name, parameter in model.named_parameters()}
    found = {called[p]: group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found) == len(called)
    muon = {name: group["rows"] for name, group in found.items() if "rows" in group}
    assert muon == {f"blocks.{layer}.{name}": rows for layer in (0, 1) for name, rows in PARTS.items()}
    assert ("head" in found) is not tie_embeddings
    for name, group in found.items():
        assert group["weight_decay"] == (0.0 if "norm" in name else 0.3), name
        assert group["fused"]


def test_frozen_matrices_are_left_out():
    model = llama()
    model.blocks[0].mlp.requires_grad_(False)
    optimizer = build_optimizer(model, MuonConfig())
    assert {group["rows"] for group in optimizer.param_groups if "rows" in group} == {(8, 4, 4), (8,)}
    assert model.blocks[0].mlp.down.weight not in {p for group in optimizer.param_groups for p in group["params"]}


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match=r"optim=muon: got a Linear without a trained matrix.*optim=adamw"):
        build_optimizer(nn.Linear(3, 3), MuonConfig())


def test_settings_of_no_optimizer_are_refused():
    with pytest.raises(ValueError, match=r"got settings of the kind OptimizerConfig, expected AdamWConfig, MuonConfig"):
        build_optimizer(llama(), OptimizerConfig())


class Separate:
    """`torch.optim.Muon` on the separate matrices of `model`, which share its memory, and `torch.optim.AdamW`."""

    def __init__(self, model, config):
        self.model = model
        self.views = [
            (parameter, [nn.Parameter(part) for part in parameter.detach().split(rows)])
            for parameter, rows in block_matrices(model).items()
        ]
        matrices = block_matrices(model).keys()
        others = [parameter for parameter in model.parameters() if parameter not in matrices]
        self.muon = torch.optim.Muon(
            [part for _, parts in self.views for part in parts],
            lr=config.lr if config.matrix_lr is None else config.matrix_lr,
            weight_decay=config.weight_decay, momentum=config.momentum, nesterov=config.nesterov,
            ns_steps=config.newton_schulz_steps, adjust_lr_fn=config.adjust_lr,
        )  # fmt: skip
        self.adamw = torch.optim.AdamW(
            [{"params": [p for p in others if p.ndim == 2], "weight_decay": config.weight_decay},
             {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0}],
            lr=config.lr, betas=config.betas, eps=config.eps, fused=True,
        )  # fmt: skip

    def step(self):
        for parameter, parts in self.views:
            for part, gradient in zip(parts, parameter.grad.split([len(p) for p in parts]), strict=True):
                part.grad = gradient
        self.muon.step()
        self.adamw.step()


CONFIGS = {
    "defaults": MuonConfig(lr=0.02),
    "no nesterov": MuonConfig(lr=0.02, nesterov=False, momentum=0.8, weight_decay=0.0),
    "original": MuonConfig(lr=0.01, matrix_lr=0.04, adjust_lr="original", newton_schulz_steps=3, betas=(0.8, 0.9)),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("steps", [1, 4])
def test_steps_are_those_of_pytorch_on_separate_matrices_bit_for_bit(name, steps):
    ours = llama(num_layers=2)
    theirs = copy.deepcopy(ours)
    optimizer, separate = build_optimizer(ours, CONFIGS[name]), Separate(theirs, CONFIGS[name])
    before = weights(ours)
    for step in range(steps):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step()
        separate.step()
    assert_same(weights(ours), weights(theirs))
    assert all(not torch.equal(before[key], value) for key, value in weights(ours).items())


def test_the_end_of_a_step_normalises_and_clips_for_both():
    ours = llama()
    theirs = copy.deepcopy(ours)
    # an epsilon of the size of the gradients makes AdamW feel their scale
    config = MuonConfig(lr=0.02, eps=1e-2, grad_clip=0.5)
    optimizer, separate = build_optimizer(ours, config), Separate(theirs, config)
    for step, tokens in enumerate((1.0, 500.0, 40.0)):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        found = finish_gradients(
            optimizer, torch.ones(()), torch.tensor(tokens), world_size=2, grad_clip=config.grad_clip
        )
        for parameter in theirs.parameters():
            parameter.grad *= 2 / tokens
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), config.grad_clip)
        assert float(found.norm) == pytest.approx(float(norm), rel=1e-5)
        optimizer.step()
        separate.step()
    for parameter, parts in separate.views:
        mine = dict(zip(theirs.parameters(), ours.parameters(), strict=True))[parameter]
        momentum = torch.cat([separate.muon.state[part]["momentum_buffer"] for part in parts])
        assert (optimizer.state[mine]["momentum_buffer"] - momentum).norm() / momentum.norm() < 1e-6
    for (name, mine), its in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (mine - its).norm() / its.norm() < (2e-6 if "norm" in name or "blocks" not in name else 1e-3), name
