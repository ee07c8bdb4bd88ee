"""From settings and a model to an optimizer: which parameter is in which group, and their learning rates."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from litespark.ops.linear.kept import keep_casts, renew_kept

if TYPE_CHECKING:
    from litespark.training.optim.settings import OptimizerConfig


def parameter_groups(
    model: nn.Module, weight_decay: float, without: Container[Tensor] = frozenset()
) -> list[dict[str, Any]]:
    """Groups for AdamW: matrices (projections, embedding, head) with weight decay, vectors (norm weights) without.

    Frozen parameters are left out, and those that another optimizer has (`without`).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in without]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimizer of `config` over the parameters of `model`; the schedule sets the rate before each step.

    A state that is loaded into it brings moments and counters; the settings stay those of `config`. Layers keep their
    casts under autocast from now on, which each step renews.
    """
    optimizer = config.build(model)
    optimizer.register_load_state_dict_pre_hook(_keep_settings)
    if layers := keep_casts(model):
        # skipped steps too; a hook, since fused optimizers leave no trace on the weights that they change
        optimizer.register_step_post_hook(lambda *_: renew_kept(layers, getattr(optimizer, "copies", None)))
    return optimizer


def _keep_settings(optimizer: Optimizer, loaded: dict[str, Any]) -> dict[str, Any]:
    saved, now = loaded["param_groups"], optimizer.param_groups
    if len(saved) != len(now):
        return loaded  # PyTorch refuses it
    return loaded | {"param_groups": [{**mine, "params": its["params"]} for its, mine in zip(saved, now, strict=True)]}
