"""From settings and a model to an optimizer: which parameter is in which group, and their learning rates."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from litespark.training.optim.settings import AdamWConfig, MuonConfig, OptimizerConfig

# what a group's learning rate is of the one that the schedule gives; absent for 1
LEARNING_RATE_FACTOR = "lr_factor"
_OF_MUON = ("weight_decay", "momentum", "nesterov", "newton_schulz_steps", "adjust_lr")


def parameter_groups(
    model: nn.Module, weight_decay: float, without: Container[Tensor] = frozenset()
) -> list[dict[str, object]]:
    """Groups for AdamW: matrices (projections, embedding, head) with weight decay, vectors (norm weights) without.

    Frozen parameters are left out, and those that another optimizer has (`without`).
    """
    parameters = [each for each in model.parameters() if each.requires_grad and each not in without]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimizer of `config` over the parameters of `model`; the schedule sets the rate before each step.

    A state that is loaded into it brings moments and counters; the settings stay those of `config`.
    """
    if isinstance(config, AdamWConfig):
        optimizer: Optimizer = _adamw(parameter_groups(model, config.weight_decay), config, fused=config.fused)
    elif isinstance(config, MuonConfig):
        optimizer = _muon(model, config)
    elif (build := getattr(config, "build", None)) is not None:  # of the user's own
        optimizer = build(model)
    else:
        raise ValueError(
            f"optim: got settings of the kind {type(config).__name__}, expected AdamWConfig, MuonConfig, or a class "
            "with a method `build(model)`; choose optim=adamw or optim=muon"
        )
    optimizer.register_load_state_dict_pre_hook(_keep_settings)
    return optimizer


def _keep_settings(optimizer: Optimizer, loaded: dict[str, Any]) -> dict[str, Any]:
    saved, now = loaded["param_groups"], optimizer.param_groups
    if len(saved) != len(now):
        return loaded  # PyTorch refuses it
    return loaded | {"param_groups": [{**mine, "params": its["params"]} for its, mine in zip(saved, now, strict=True)]}


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every parameter group `learning_rate`, or the share of it that the group has of the peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get(LEARNING_RATE_FACTOR, 1.0)


def _muon(model: nn.Module, config: MuonConfig) -> Optimizer:
    # only where it is chosen, since it looks into PyTorch's Muon
    from litespark.training.optim.muon import MuonWithAdamW, block_matrices

    matrices = block_matrices(model)
    rows: dict[tuple[int, ...], list[Tensor]] = {}
    for parameter, parts in matrices.items():
        if parameter.requires_grad:
            rows.setdefault(parts, []).append(parameter)
    if not rows:
        raise ValueError(
            f"optim=muon: got a {type(model).__name__} without a trained matrix in its layers, expected some: Muon is "
            "for those. Choose optim=adamw"
        )
    factor = 1.0 if config.matrix_lr is None else config.matrix_lr / config.lr
    common = {name: getattr(config, name) for name in _OF_MUON}
    common |= {"lr": config.lr * factor, LEARNING_RATE_FACTOR: factor}
    groups = [{"params": parameters, "rows": parts, **common} for parts, parameters in rows.items()]
    others = parameter_groups(model, config.weight_decay, without=matrices.keys())
    return MuonWithAdamW(groups, _adamw(others, config, fused=True))


def _adamw(groups: list[dict[str, object]], config: OptimizerConfig, *, fused: bool) -> torch.optim.AdamW:
    foreach = None if fused else True
    return torch.optim.AdamW(groups, config.lr, config.betas, config.eps, fused=fused, foreach=foreach)
