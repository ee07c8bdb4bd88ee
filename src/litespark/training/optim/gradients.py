"""The end of a step, before the optimizer takes it (normalise, clip, guard), with few passes.

At the end of a step the gradients are sums over tokens. Three things have to happen to them: division by the
supervised tokens of the whole step, clipping, and skipping the step when something is not finite. All three are folded
into the optimizer's step (the fused AdamW kernel, or Muon's) through two scalars that it reads on the device
(`grad_scale` and `found_inf`, PyTorch's own interface for loss scaling), so that no pass over the gradients is added
for AdamW and the host waits for nothing. A step is skipped by selection: multiplying by zero would keep a NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


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

    The gradient that the optimizer then uses is `grad · world_size / tokens · min(1, clip_norm / norm)`.
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
    if _reads_scalars(optimizer):
        optimizer.grad_scale = factor.reciprocal()  # type: ignore[attr-defined]
        optimizer.found_inf = skipped  # type: ignore[attr-defined]
    elif finite.item():  # the plain optimizers cannot skip on the device
        torch._foreach_mul_(gradients, factor)
    else:
        optimizer.zero_grad(set_to_none=True)
    return StepGradients(norm=norm.float(), skipped=skipped)


def _reads_scalars(optimizer: Optimizer) -> bool:
    """Whether its step takes `grad_scale` and `found_inf` from the device."""
    return all(bool(group.get("fused")) for group in optimizer.param_groups)


def _global_norm(gradients: Iterable[Tensor]) -> Tensor:
    norm = torch.nn.utils.get_total_norm(list(gradients))
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
