"""The optimizer: AdamW with parameter groups, and the end of a step (normalise, clip, guard) with few passes.

At the end of a step the gradients are sums over tokens. Three things have to happen to them: division by the
supervised tokens of the whole step, clipping, and skipping the step when something is not finite. All three are folded
into the fused AdamW kernel through the two scalars that it reads from the device anyway (`grad_scale` and `found_inf`,
PyTorch's own interface for loss scaling), so that no pass over the gradients is added and the host waits for nothing.
A step is skipped by selection inside the kernel: multiplying by zero would keep a NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101), states in fp32.

    Attributes:
        lr: peak learning rate.
        betas: decay of the first and second moment.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled weight decay, on matrices only.
        clip_norm: largest global gradient norm; None clips nothing.
        fused: one kernel for all parameters (CPU and CUDA). Without it the host reads one number in each step.
        nonfinite_limit: non-finite steps in a row after which the run stops.
    """

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0
    fused: bool = True
    nonfinite_limit: int = 5

    def __post_init__(self) -> None:
        # OmegaConf hands lists over
        object.__setattr__(self, "betas", tuple(self.betas))
        if not 0 < self.lr < math.inf:
            raise ValueError(f"optim.lr: got {self.lr}, expected a positive, finite learning rate")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas: got {list(self.betas)}, expected two numbers in [0, 1)")
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(f"optim.epsilon: got {self.epsilon}, expected at least 0")
        if not self.weight_decay >= 0:
            raise ValueError(f"optim.weight_decay: got {self.weight_decay}, expected at least 0")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"optim.clip_norm: got {self.clip_norm}, expected a positive norm, or null for none")
        if self.nonfinite_limit < 1:
            raise ValueError(f"optim.nonfinite_limit: got {self.nonfinite_limit}, expected at least 1")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: matrices (projections, embedding, head) with weight decay, vectors (norm weights) without."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups: list[dict[str, object]] = [{"params": matrices, "weight_decay": weight_decay}]
    if vectors:
        groups.append({"params": vectors, "weight_decay": 0.0})
    return groups


def build_optimizer(model: nn.Module, config: AdamWConfig) -> torch.optim.AdamW:
    """AdamW over the parameter groups of `model`; the learning rate is set before each step by the schedule."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.lr,
        betas=config.betas,
        eps=config.epsilon,
        fused=config.fused,
        foreach=None if config.fused else True,
    )


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every parameter group `learning_rate`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@dataclass(frozen=True)
class StepGradients:
    """What the end of a step found; scalars on the device.

    Attributes:
        norm: () fp32, global gradient norm after normalisation and before clipping.
        skipped: () fp32, 1 when the step was not finite and was skipped, else 0.
    """

    norm: Tensor
    skipped: Tensor


def finish_gradients(
    optimizer: Optimizer, loss: Tensor, tokens: Tensor, *, world_size: int, clip_norm: float | None
) -> StepGradients:
    """Normalise, clip and guard the gradients of one optimizer step, before `optimizer.step`.

    Args:
        optimizer: its gradients are sums over the tokens of this rank's micro-batches, averaged over ranks.
        loss: () sum of the loss over all ranks and micro-batches of the step.
        tokens: () supervised tokens of the same.
        world_size: ranks over which the gradients were averaged.
        clip_norm: largest global norm, or None.

    The gradient that AdamW then uses is `grad · world_size / tokens · min(1, clip_norm / norm)`.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = _global_norm(gradients) * (world_size / tokens.clamp(min=1))
    finite = torch.isfinite(norm) & torch.isfinite(loss)
    factor = world_size / tokens.clamp(min=1)
    if clip_norm is not None:
        factor = factor * (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    # a NaN factor must not reach the kernel's arithmetic, even though its result is not taken
    factor = torch.where(finite, factor, torch.ones_like(factor)).float()
    skipped = (~finite).float()
    if _is_fused(optimizer):
        optimizer.grad_scale = factor.reciprocal()  # type: ignore[attr-defined]
        optimizer.found_inf = skipped  # type: ignore[attr-defined]
    elif finite.item():  # the plain optimizers cannot skip on the device
        torch._foreach_mul_(gradients, factor)
    else:
        optimizer.zero_grad(set_to_none=True)
    return StepGradients(norm=norm.float(), skipped=skipped)


def _is_fused(optimizer: Optimizer) -> bool:
    return all(bool(group.get("fused")) for group in optimizer.param_groups)


def _global_norm(gradients: Iterable[Tensor]) -> Tensor:
    norm = torch.nn.utils.get_total_norm(list(gradients))
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
